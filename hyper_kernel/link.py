"""Frames of ``wire`` over a socket, from the host's side: requests with replies, events, and streams.

Used with the guest's agent and between hyperd and a shim. A link reads with bounds whatever the peer sends.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from hyper_kernel import wire
from hyper_kernel.errors import GuestError, LostError
from hyper_kernel.wire import Type

_READ = 128 * 1024


class Frames:
    """A socket that carries frames, for one reader and any number of writers.

    :param sock: connected and non-blocking; owned from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = wire.Decoder()
        self._writing = asyncio.Lock()
        self._users = 0
        self._closed = False

    @classmethod
    async def dial(cls, path: str) -> Self:
        """Connect to a Unix socket.

        :raise OSError: nobody listens there.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, kind: Type, payload: bytes | dict[str, Any] = b"") -> None:
        """Send one frame; returns when the socket has taken all of it (so a slow peer slows the caller).

        :raise OSError: the connection is gone.
        """
        frame = wire.pack(kind, payload)
        async with self._writing:
            with self._using():
                await asyncio.get_running_loop().sock_sendall(self._sock, frame)

    async def __aiter__(self) -> AsyncIterator[tuple[Type, bytes]]:
        """Frames until the peer ends the stream or the connection breaks.

        :raise WireError: the peer broke the contract.
        """
        data = b""
        while True:
            for frame in self._decoder.feed(data):
                yield frame
            try:
                data = await self._recv(_READ)
                # SECURITY: nothing above waits while it need not: a flood must not keep all others from their turn.
                await asyncio.sleep(0)
            except OSError:
                return
            if not data:
                return

    async def receive(self) -> tuple[Type, bytes]:
        """The next frame, without reading a byte past it (what follows may not be frames, see :meth:`detach`).

        :raise LostError: the peer closed before it was whole.
        :raise WireError: the peer broke the contract.
        """
        while True:
            for frame in self._decoder.feed(b""):
                return frame
            try:
                data = await self._recv(self._decoder.missing)
            except OSError as exc:
                raise LostError(f"the connection broke: {exc}") from exc
            if not data:
                raise LostError("the connection closed before its first frame")
            for frame in self._decoder.feed(data):
                return frame

    def detach(self) -> socket.socket:
        """The bare socket, for a stream that goes on without frames."""
        return self._sock

    def close(self) -> None:
        """Close the socket; readers and writers under way end. Again: nothing happens."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._close_unused()

    async def _recv(self, size: int) -> bytes:
        with self._using():
            return await asyncio.get_running_loop().sock_recv(self._sock, size)

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """A descriptor closed under a waiting reader would never wake it: the last user closes."""
        if self._closed:
            raise OSError("the connection is closed")
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._users:
            self._sock.close()


def words_of(message: dict[str, Any]) -> str:
    """The ``error`` of a peer's message, for people."""
    # SECURITY: what is no text is not made text: one that is deeply nested cannot be.
    error = message.get("error")
    return error[:2000] if isinstance(error, str) else "it gave no reason"


class Link:
    """Requests, replies and events over :class:`Frames`.

    :param frames: owned from here on.
    :param on_event: called with each EVENT's object, in order, on the loop; must not block.
    :param peer: who answers, for messages ("the guest", "the shim").
    """

    def __init__(self, frames: Frames, *, on_event: Callable[[dict[str, Any]], None], peer: str) -> None:
        self._frames = frames
        self._on_event = on_event
        self._peer = peer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._lost = False
        self._problem = f"{peer} closed the connection"
        self._reader = asyncio.create_task(self._read())

    async def request(self, op: str, *, deadline_s: float = 30.0, **args: Any) -> dict[str, Any]:
        """Ask for an operation and wait for its result.

        :raise GuestError: the peer answered with an error.
        :raise LostError: no answer within ``deadline_s``, or the link broke: the operation may have happened.
        """
        if self._lost:
            raise LostError(f"{self._peer} is gone")
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(deadline_s):
                await self._frames.send(Type.REQUEST, {"id": number, "op": op, "args": args})
                return await answer
        except TimeoutError as exc:
            raise LostError(f"{self._peer} did not answer {op} within {deadline_s:g} s") from exc
        except OSError as exc:
            raise LostError(f"{self._peer} is gone: {exc}") from exc
        finally:
            self._waiting.pop(number, None)

    async def wait_closed(self) -> str:
        """Wait until the peer has gone; say how, for people. Raises nothing."""
        await asyncio.wait([self._reader])
        return self._problem

    async def close(self) -> None:
        """Close the connection; requests under way raise :class:`LostError`."""
        self._frames.close()
        await self.wait_closed()

    async def _read(self) -> None:
        try:
            async for kind, payload in self._frames:
                self._take(kind, wire.parse(kind, payload))
        except wire.WireError as exc:
            self._problem = f"{self._peer} broke the contract: {exc}"
        finally:
            self._lost = True
            self._frames.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LostError(self._problem))

    def _take(self, kind: Type, message: dict[str, Any]) -> None:
        if kind is Type.EVENT:
            self._on_event(message)
        elif kind is Type.REPLY:
            number = message.get("id")
            # SECURITY: the peer says it; a list, as a key of a dictionary, would end this reader with a TypeError.
            answer = self._waiting.get(number) if isinstance(number, int) else None
            if answer is None or answer.done():
                return  # it came after its deadline
            result = message.get("result")
            if isinstance(result, dict):
                answer.set_result(result)
            else:
                answer.set_exception(GuestError(f"{self._peer}: {words_of(message)}"))
        else:
            raise wire.WireError(f"{kind.name} is not for a control connection")
