"""The shim's own client of a kernel: a few requests over the kernel's shell channel, without ZeroMQ's library."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from hyper_kernel.channels.message import is_signed, read_head
from hyper_kernel.channels.packet import new_header, pack, write_json
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import (
    GREETING,
    HEARTBEAT,
    Flow,
    Steps,
    ZmtpError,
    next_message,
    read_opening,
    ready,
)
from hyper_kernel.errors import GuestError

_T = TypeVar("_T")
#: One reply, without its buffers, which nobody here reads.
MAX_REPLY = 1 << 20
#: How long a kernel may take to shake hands, and to answer, in seconds, unless the caller says otherwise.
HANDSHAKE_S = 10.0
REPLY_S = 30.0
_CHUNK = 64 * 1024


class KernelClient:
    """A connection to a kernel's shell channel, as a DEALER socket; made by :meth:`open`. One request at a time."""

    def __init__(self, sock: socket.socket, signer: Signer) -> None:
        self._sock = sock
        self._signer = signer
        self._flow = Flow()
        self._session = os.urandom(16).hex()

    @classmethod
    @asynccontextmanager
    async def open(cls, sock: socket.socket, signer: Signer, *, deadline_s: float = HANDSHAKE_S) -> AsyncIterator[Self]:
        """Shake hands with the kernel; the socket is closed at the end.

        :param sock: connected to the shell channel and non-blocking.
        :param signer: the kernel's key.
        :raise GuestError: nobody speaks ZeroMQ there, or not in time.
        """
        with sock:
            client = cls(sock, signer)
            async with _guard("shake hands", deadline_s):
                hello = GREETING + ready(b"DEALER", client._session.encode())
                await asyncio.get_running_loop().sock_sendall(sock, hello)
                # A message must not be sent before the peer's READY has come (RFC 37).
                await client._read(read_opening(client._flow))
            yield client

    async def request(self, kind: str, content: dict[str, Any], *, deadline_s: float = REPLY_S) -> dict[str, Any]:
        """Send a request and wait for its reply; what else comes is passed over.

        :param kind: its message type, such as ``kernel_info_request``.
        :return: the reply's content, whatever its status. SECURITY: a guest wrote it.
        :raise GuestError: no reply in time, or one that is wrongly signed, too long or malformed; the connection is of
            no use then.
        """
        identifier = os.urandom(16).hex()
        async with _guard(f"answer {kind}", deadline_s):
            await self._send(identifier, kind, content)
            while True:
                parent, reply = await self._receive()
                if parent.get("msg_id") == identifier:
                    return reply

    async def _send(self, identifier: str, kind: str, content: dict[str, Any]) -> None:
        header = new_header(kind) | {"msg_id": identifier, "session": self._session}
        data = pack([write_json(part) for part in (header, {}, {}, content)], self._signer)
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _receive(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parent header and content of the next message."""
        # Pings are not answered: kernels do not send any, and this connection is short.
        message = await self._read(next_message(self._flow, HEARTBEAT))
        head = await self._read(read_head(message, MAX_REPLY))
        # SECURITY: another kernel at this port, or a program that took the kernel's place, has not its key.
        if not is_signed(self._flow.held, head, self._signer):
            raise GuestError("a message of the kernel is not signed with its key")
        _, parent, _, content = (_parse(self._flow.held[part]) for part in head.parts)
        self._flow.drop()
        while message.more:
            await self._read(message.skip())
        return parent, content

    async def _read(self, steps: Steps[_T]) -> _T:
        """Run steps to their end, giving them what comes in."""
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: _T = done.value
                return result
            finally:
                self._flow.take_output()  # greeting and commands, which nobody needs
            # SECURITY: sock_recv does not wait while it need not: without this a flood would hold the deadline off.
            await asyncio.sleep(0)
            data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
            if not data:
                raise GuestError("the kernel closed its connection")
            self._flow.put(data)


@asynccontextmanager
async def _guard(what: str, deadline_s: float) -> AsyncIterator[None]:
    """Make every trouble with the kernel a GuestError."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as exc:
        raise GuestError(f"the kernel did not {what} within {deadline_s:g} s") from exc
    except OSError as exc:
        raise GuestError(f"the connection to the kernel broke: {exc}") from exc
    except ZmtpError as exc:
        raise GuestError(f"the kernel broke the protocol of its channel: {exc}") from exc


def _parse(part: bytearray) -> dict[str, Any]:
    try:
        value = json.loads(part)
    except (ValueError, RecursionError) as exc:
        raise GuestError("a part of the kernel's message is not JSON") from exc
    if not isinstance(value, dict):
        raise GuestError("a part of the kernel's message is no JSON object")
    return value
