"""Jupyter's five channels between clients on the host and a kernel in a guest."""
