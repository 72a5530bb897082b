"""Folders of the host that guests mount live, by 9P."""
