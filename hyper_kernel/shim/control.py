"""The shim's control socket: hyperd's requests, and streams that are relayed to the guest."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from hyper_kernel import wire
from hyper_kernel.agent.agent import RefusedError
from hyper_kernel.errors import GuestError, HyperError
from hyper_kernel.link import Frames
from hyper_kernel.wire import Type, WireError

log = logging.getLogger(__name__)

#: What may pass a relayed stream, by direction.
_TO_GUEST = frozenset({Type.STDIN, Type.STDIN_EOF, Type.RESIZE, Type.SIGNAL})
_FROM_GUEST = frozenset({Type.STDOUT, Type.STDERR, Type.EXIT})


class Served(Protocol):
    """What the control socket needs of a shim."""

    async def call(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        """One operation. :raise HyperError: it failed."""

    async def open(self, kind: str, args: dict[str, Any]) -> Frames:
        """A stream of the guest's. :raise HyperError: refused."""

    async def attach(self, frames: Frames, args: dict[str, Any]) -> None:
        """Serve a client of the main program until it leaves."""

    def record_dict(self) -> dict[str, Any]:
        """The record as plain data."""


class Control:
    """Serves one shim on a Unix socket."""

    def __init__(self, shim: Served) -> None:
        self._shim = shim
        self._watchers: set[Frames] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve those who connect while the context lasts.

        :param listener: bound and listening; closed in the end.
        """
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield
        finally:
            accepting.cancel()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(accepting, *self._tasks, return_exceptions=True)
            listener.close()

    async def announce(self) -> None:
        """Tell the watchers the record as it is now."""
        event = {"event": "record", "record": self._shim.record_dict()}
        for frames in tuple(self._watchers):
            try:
                async with asyncio.timeout(5):
                    await frames.send(Type.EVENT, event)
            except (OSError, TimeoutError):
                self._watchers.discard(frames)
                frames.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            client.setblocking(False)
            self._spawn(self._serve(Frames(client)))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, frames: Frames) -> None:
        try:
            async for kind, payload in frames:
                message = wire.parse(kind, payload)
                if kind is Type.OPEN:
                    await self._serve_stream(frames, message)
                    return
                if kind is not Type.REQUEST:
                    raise WireError(f"{kind.name} is not for a control connection")
                self._spawn(self._answer(frames, message))
        except (WireError, OSError) as exc:
            log.warning("a control connection ended: %s", exc)
        finally:
            self._watchers.discard(frames)
            frames.close()

    async def _answer(self, frames: Frames, message: dict[str, Any]) -> None:
        number, op, args = message["id"], message["op"], message.get("args", {})
        try:
            if op == "ping":
                reply = {"id": number, "result": {}}
            elif op == "watch":
                self._watchers.add(frames)
                reply = {"id": number, "result": {"record": self._shim.record_dict()}}
            else:
                reply = {"id": number, "result": await self._shim.call(op, args)}
        except HyperError as exc:
            reply = {"id": number, "error": str(exc)}
        with contextlib.suppress(OSError):
            await frames.send(Type.REPLY, reply)

    async def _serve_stream(self, frames: Frames, message: dict[str, Any]) -> None:
        kind = str(message.pop("kind"))
        if kind == "attach":
            await frames.send(Type.OPENED)
            await self._shim.attach(frames, message)
            return
        try:
            guest = await self._shim.open(kind, message)
        except RefusedError as exc:
            await frames.send(Type.REFUSED, {"error": str(exc), "code": exc.code})
        except HyperError as exc:
            await frames.send(Type.REFUSED, {"error": str(exc), "code": 125})
        else:
            await _relay(frames, guest)


async def _relay(client: Frames, guest: Frames) -> None:
    """Carry frames both ways until the guest's EXIT, or until either side leaves."""
    await client.send(Type.OPENED)
    inward = asyncio.create_task(_carry(client, guest, _TO_GUEST))
    outward = asyncio.create_task(_carry(guest, client, _FROM_GUEST))
    try:
        await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
        if outward.done() and (problem := outward.exception()):
            raise GuestError(f"the guest broke the contract: {problem}")
    finally:
        guest.close()
        inward.cancel()
        outward.cancel()
        await asyncio.gather(inward, outward, return_exceptions=True)


async def _carry(source: Frames, sink: Frames, allowed: frozenset[Type]) -> None:
    with contextlib.suppress(OSError):
        async for kind, payload in source:
            # SECURITY: a guest can only ever send a client output and an exit, whatever it writes on a stream.
            if kind not in allowed:
                raise WireError(f"{kind.name} in the wrong direction")
            await sink.send(kind, payload)
            if kind is Type.EXIT:
                return
