"""Handles of the operating system: processes, locks, facts about this machine."""
