"""One connection of a client, carried to the kernel's port and back."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.missed import Missed
from hyper_kernel.channels.signing import Buffer
from hyper_kernel.channels.zmtp import MAX_MESSAGE, Codec, ZmtpError

log = logging.getLogger(__name__)

Send = Callable[[Iterator[Buffer]], Awaitable[None]]

#: One read. Output that is over its limit passes up to the end of it.
CHUNK = 128 * 1024
#: What all connections of a kernel may hold or be sending at a time: no two of them the longest message.
MAX_BACKLOG = 2 * MAX_MESSAGE
#: How long a client whose kernel has closed the connection may wait for the last words about it, in seconds.
LAST_WORDS_S = 2.0
#: How long a client may take to read a message of the shim's own, in seconds.
_PUT_S = 2.0


@dataclass(slots=True)
class Traffic:
    """What all connections of one kernel have passed and hold, in bytes; ``last_s`` is when the kernel last said
    something, in the loop's seconds."""

    inward: int = 0
    outward: int = 0
    held: int = 0
    last_s: float = 0.0

    def hold(self, count: int) -> None:
        """Hold more, or less.

        :raise ZmtpError: it is too much.
        """
        self.held += count
        # SECURITY: a cap for one message is none for many connections that each hold most of one.
        if self.held > MAX_BACKLOG:
            raise ZmtpError(f"all connections together hold over {MAX_BACKLOG} bytes")


class Connection:
    """Carries one connection; see :meth:`carry`.

    :param channel: its name.
    :param client: the client's socket.
    :param traffic: counts.
    :param on_broken: called when the kernel broke the rules, with what it did.
    :param is_wanted: asked when the client has left: whether to keep what the kernel still has to say here.
    """

    def __init__(
        self,
        channel: str,
        client: socket.socket,
        traffic: Traffic,
        on_broken: Callable[[str], None] = lambda what: None,
        is_wanted: Callable[["Connection"], bool] = lambda connection: False,
    ) -> None:
        self.channel = channel
        #: What is kept, once the client has left.
        self.missed: Missed | None = None
        #: Whether the client has closed its side.
        self.has_left = False
        self._client = client
        self._traffic = traffic
        self._on_broken = on_broken
        self._is_wanted = is_wanted
        self._codec: Codec | None = None
        #: Held by who writes to the client.
        self._writing = asyncio.Lock()
        self._waiting: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Connection {self.channel} waiting={len(self._waiting)}>"

    async def carry(self, kernel: socket.socket, inward: Codec, outward: Codec, meter: Meter) -> None:
        """Carry both directions until both have ended, or one breaks the rules.

        :param kernel: the stream to the kernel's port.
        :param inward: what may pass to the kernel.
        :param outward: what may pass to the client.
        :param meter: counts what comes from the kernel.
        """
        self._codec = outward
        up = asyncio.create_task(self._pump_in(kernel, inward))
        down = asyncio.create_task(self._pump_out(kernel, outward, meter))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            up.cancel()
            down.cancel()
            results = await asyncio.gather(up, down, return_exceptions=True)
        for peer, result in zip(("a client", "the kernel"), results, strict=True):
            if isinstance(result, ZmtpError):
                log.warning("ended a connection to %s for what %s sent: %s", self.channel, peer, result)
                if peer == "the kernel":
                    self._on_broken(f"{self.channel}: {result}")
            elif isinstance(result, Exception):
                raise result

    async def put(self, message: bytes) -> None:
        """Send a message of our own, between two of the kernel's; a client that does not read loses it."""
        self._waiting.append(message)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PUT_S), self._writing:
                await self._send_waiting()

    async def _pump_in(self, kernel: socket.socket, codec: Codec) -> None:
        async def send(chunks: Iterator[Buffer]) -> None:
            for chunk in chunks:
                await asyncio.get_running_loop().sock_sendall(kernel, chunk)
                self._traffic.inward += len(chunk)

        await self._pump(self._client, codec, send, lambda count: 0.0)
        self._keep_missed()
        if self.missed is None:
            _end_writing(kernel)

    async def _pump_out(self, kernel: socket.socket, codec: Codec, meter: Meter) -> None:
        async def send(chunks: Iterator[Buffer]) -> None:
            if self.channel != "hb":  # which answers, and says nothing
                self._traffic.last_s = asyncio.get_running_loop().time()
            async with self._writing:
                for chunk in chunks:
                    await self._send(chunk)
                    self._traffic.outward += len(chunk)
                if self.missed and codec.can_insert:
                    self.missed.end_message()
                await self._send_waiting()

        await self._pump(kernel, codec, send, meter.take)
        # The kernel, or its machine, is gone. Who knows why may still say it to the client, and cancels this then.
        await asyncio.sleep(LAST_WORDS_S)
        _end_writing(self._client)

    async def _send(self, chunk: Buffer) -> None:
        if self.missed is None:
            try:
                await asyncio.get_running_loop().sock_sendall(self._client, chunk)
                return
            except OSError:
                self._keep_missed()
        if self.missed is None:
            raise ConnectionResetError(f"the client of {self.channel} has left")
        self.missed.add(chunk)

    def _keep_missed(self) -> None:
        """The client has left: keep what it misses, if that is wanted."""
        self.has_left = True
        if self.missed is None and self._codec and self._is_wanted(self):
            self.missed = Missed(self.channel, is_midway=not self._codec.can_insert)

    async def _pump(self, source: socket.socket, codec: Codec, send: Send, take: Callable[[int], float]) -> None:
        loop, buffer, held = asyncio.get_running_loop(), bytearray(CHUNK), 0
        view = memoryview(buffer)
        try:
            with contextlib.suppress(OSError):
                while count := await loop.sock_recv_into(source, buffer):
                    held += count
                    self._traffic.hold(count)
                    await send(codec.feed(view[:count]))
                    self._traffic.hold(codec.held - held)
                    held = codec.held
                    # SECURITY: neither call above waits while it need not: who sends faster than this reads must not
                    # keep all others of this loop from their turn. What comes too fast is left to wait in the guest.
                    await asyncio.sleep(take(count))
        finally:
            self._traffic.held -= held

    async def _send_waiting(self) -> None:
        """Send what waits, unless a message of the kernel's has passed in part or none could be read yet."""
        if self._codec is None or not self._codec.can_insert:
            return
        waiting, self._waiting = self._waiting, []
        if self.missed:
            for message in waiting:
                self.missed.add(message)
            self.missed.end_message()
            return
        try:
            for message in waiting:
                await asyncio.get_running_loop().sock_sendall(self._client, message)
        except asyncio.CancelledError:
            _end_writing(self._client)  # it may have got a part of one: nothing can follow that
            raise


def _end_writing(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
