"""``connect`` streams: a connection of the host's goes on as one to a TCP port of the loopback."""

import contextlib
import socket
import threading
import time

_READ = 64 * 1024
_RETRY_S = 0.02


def dial_port(port: int, wait_s: float) -> socket.socket:
    """Connect to a port of the loopback; try again until somebody listens there or ``wait_s`` has passed.

    :raise OSError: nobody does.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=max(wait_s, 5.0))
        except ConnectionRefusedError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)  # the kernel has no event for "somebody listens now"
            continue
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def splice(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes both ways until both directions have ended, then close both; an end of one side is passed on."""
    back = threading.Thread(target=_copy, args=(other, one), name="splice")
    back.start()
    _copy(one, other)
    back.join()
    one.close()
    other.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    buffer = bytearray(_READ)
    view = memoryview(buffer)
    try:
        while count := source.recv_into(buffer):
            target.sendall(view[:count])
    except OSError:
        # One side broke: end both, so that the other direction's thread does not wait for ever.
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        return
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
