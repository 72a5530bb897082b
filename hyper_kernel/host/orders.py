"""Small messages, each with descriptors if need be, between processes of ours: a sequenced-packet socket pair."""

import asyncio
import json
import os
import socket
from typing import Any

#: Longest message, in bytes; the socket would cut a longer one.
_MAX_ORDER = 64 * 1024
_MAX_FDS = 4


def open_orders() -> tuple[socket.socket, socket.socket]:
    """A connected pair."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send_order(sock: socket.socket, order: dict[str, Any], *fds: int) -> None:
    """Send a message and copies of descriptors.

    :raise OSError: the peer is gone, or takes nothing.
    """
    socket.send_fds(sock, [json.dumps(order).encode()], fds)


def take_order(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the caller's from here on.

    :raise EOFError: the peer is gone.
    :raise BlockingIOError: there is none yet, on a non-blocking socket.
    """
    data, fds, _, _ = socket.recv_fds(sock, _MAX_ORDER, _MAX_FDS)
    if not data:
        raise EOFError
    for fd in fds:
        os.set_inheritable(fd, False)
    return json.loads(data), fds


async def receive_order(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message of a non-blocking socket, waited for.

    :raise EOFError: the peer is gone.
    """
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
        return take_order(sock)
    except ConnectionError as exc:
        raise EOFError from exc
    finally:
        loop.remove_reader(sock)
