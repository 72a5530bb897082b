"""``connect`` streams: a connection of the host's goes on as one to a TCP port of the loopback."""

import contextlib
import socket
import threading
import time

_READ = 64 * 1024
#: Asking costs an emulated processor a millisecond, which the kernel that is to listen lacks: the longer it takes, the
#: seldomer it is asked. From this many seconds to that many, a tenth of what has been waited.
_MIN_RETRY_S, _MAX_RETRY_S = 0.005, 0.1


def dial_port(port: int, wait_s: float) -> socket.socket:
    """Connect to a port of the loopback; try again until somebody listens there or ``wait_s`` has passed.

    :raise OSError: nobody does.
    """
    started = time.monotonic()
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=max(wait_s, 5.0))
        except ConnectionRefusedError:
            waited = time.monotonic() - started
            if waited >= wait_s:
                raise
            # The kernel has no event for "somebody listens now".
            time.sleep(min(max(waited / 10, _MIN_RETRY_S), _MAX_RETRY_S))
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
