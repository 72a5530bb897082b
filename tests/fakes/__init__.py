"""Fakes that speak the real protocols: a shim whose sandbox is a folder, and a hyperd that starts those."""
