"""Carries a mount's messages between the guest and the server of its folder, one request at a time."""

import asyncio
import contextlib
import socket

from hyper_kernel.mounts.gate import Gate
from hyper_kernel.mounts.messages import HEADER, ProtocolError
from hyper_kernel.wire import FOLDER_MSIZE

_READ = 128 * 1024


class _Messages:
    """Whole messages from a socket, none of them larger than was agreed on.

    :param sock: non-blocking.
    :param whose: for errors.
    """

    def __init__(self, sock: socket.socket, whose: str) -> None:
        self._sock = sock
        self._whose = whose
        self._data = bytearray()

    async def read(self) -> bytes:
        """The next; empty once the other side has ended.

        :raise ProtocolError: it has no size that a message can have.
        :raise OSError: the connection broke.
        """
        while len(self._data) < self._size():
            data = await asyncio.get_running_loop().sock_recv(self._sock, _READ)
            if not data:
                return b""
            self._data += data
        size = self._size()
        message = bytes(self._data[:size])
        del self._data[:size]
        return message

    def _size(self) -> int:
        """The next one's size, as far as it is known."""
        if len(self._data) < HEADER:
            return HEADER
        size = int.from_bytes(self._data[:4], "little")
        # SECURITY: whatever is said, no more than one message is kept, and what was read with it.
        if not HEADER <= size <= FOLDER_MSIZE:
            raise ProtocolError(f"{self._whose} sent a message of {size} bytes by 9P")
        return size


async def carry(guest: socket.socket, server: socket.socket, gate: Gate) -> None:
    """Carry until either side ends; then both have ended.

    :param guest, server: non-blocking.
    :raise ProtocolError: either side broke the protocol.
    """
    loop = asyncio.get_running_loop()
    requests, answers = _Messages(guest, "the guest"), _Messages(server, "the server of a folder")
    try:
        with contextlib.suppress(OSError):
            while message := await requests.read():
                asked, answer = gate.ask(message)
                for each in asked:
                    await loop.sock_sendall(server, each)
                    if not (reply := await answers.read()):
                        return
                    if each[4] == message[4]:
                        answer = gate.note(reply)
                await loop.sock_sendall(guest, answer)
                # SECURITY: nothing above waits while it need not: a flood must not keep all others from their turn.
                await asyncio.sleep(0)
    finally:
        for sock in (guest, server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
