"""Small messages, each with descriptors if need be, between processes of ours: a sequenced-packet socket pair."""

import asyncio
import json
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

#: Longest message, in bytes; the socket would cut a longer one.
_MAX_ORDER = 64 * 1024
_MAX_FDS = 4
#: Longest reason to put into a message, in characters: six bytes each at most, as JSON has them.
MAX_REASON = 2000


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
    await _wait_readable(sock)
    try:
        return take_order(sock)
    except ConnectionError as exc:
        raise EOFError from exc


async def do_while_held(sock: socket.socket, work: Coroutine[Any, Any, _T]) -> _T:
    """Do work for as long as the peer holds its side of the socket, on which nothing comes meanwhile.

    :raise EOFError: it let go; the work was cancelled, and has ended.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_wait_readable(sock))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise EOFError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
