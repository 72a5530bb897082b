"""Folders of the host that guests mount live, by 9P.

The server is Debian's diod: C that trusts its clients, which is the price of not writing one. So it is jailed like QEMU
(``server``), and gets only what a gate of ours has read (``messages``, ``gate``), one request at a time (``carry``).
"""
