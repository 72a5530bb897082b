"""The agent of one guest: hello, operations, streams."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from hyper_kernel import wire
from hyper_kernel.errors import GuestError, LostError
from hyper_kernel.link import Frames, Link, words_of
from hyper_kernel.vsock.end import VsockEnd, dial_until_up
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)

#: How long the guest may take to answer when a stream is opened, in seconds.
_OPEN_S = 30.0
_ENTROPY_BYTES = 64


class Agent:
    """What the host can ask of a guest that has said hello; made by :meth:`meet`.

    ``hello`` holds what the guest says of itself: never trust it for more than display.
    """

    def __init__(self, end: VsockEnd, link: Link, hello: dict[str, Any]) -> None:
        self._end = end
        self._link = link
        self.hello = hello

    @classmethod
    async def meet(cls, end: VsockEnd, *, on_event: Callable[[dict[str, Any]], None], deadline_s: float) -> Self:
        """Dial the guest until its agent answers with its hello, and welcome it.

        :param end: the vsock device's host end; the guest may be still booting.
        :param on_event: gets each EVENT of the guest; must not block.
        :param deadline_s: how long the guest may take, in seconds.
        :raise GuestError: nobody answers, or not in this version of the contract.
        """
        frames = Frames(await dial_until_up(end, wire.STREAM_PORT, deadline_s=deadline_s))
        try:
            async with asyncio.timeout(_OPEN_S):
                await frames.send(Type.OPEN, {"kind": "control"})
                kind, payload = await frames.receive()
                hello = wire.parse(kind, payload)
                if kind is not Type.HELLO:
                    raise wire.WireError(f"{kind.name} came before HELLO")
                wire.check_version(hello)
                await frames.send(Type.WELCOME, {"version": wire.VERSION})
        except (wire.WireError, LostError, OSError, TimeoutError) as exc:
            frames.close()
            # SECURITY: it quotes the guest; so much of it gets into a record.
            raise GuestError(f"the guest's hello is wrong: {str(exc)[:200]}", hint="run: hyper setup") from exc
        return cls(end, Link(frames, on_event=on_event, peer="the guest"), hello)

    async def resync(self, *, hostname: str, scratch_mib: int, image: dict[str, Any], processes: int = 0) -> None:
        """Give the guest its own identity (clock, entropy, names) and its bounds. Nothing is served before it.

        :param processes: how many may run in it for its user; 0: any number.
        :raise GuestError: the guest refuses.
        """
        await self._link.request(
            "resync",
            time_ns=time.time_ns(),
            entropy=os.urandom(_ENTROPY_BYTES).hex(),
            hostname=hostname,
            scratch_mib=scratch_mib,
            processes=processes,
            image=image,
        )

    async def request(self, op: str, **args: Any) -> dict[str, Any]:
        """Any operation of ``wire``; see :meth:`hyper_kernel.link.Link.request`."""
        return await self._link.request(op, **args)

    async def open(self, kind: str, *, deadline_s: float = _OPEN_S, **args: Any) -> Frames:
        """Open a framed stream (exec, put, get).

        :param deadline_s: how long the guest may take, in seconds.
        :raise RefusedError: the guest refuses, with its reason.
        :raise LostError: it does not answer.
        """
        try:
            async with asyncio.timeout(deadline_s):
                frames = Frames(await self._end.connect(wire.STREAM_PORT))
                try:
                    await self._start_stream(frames, kind, args)
                except BaseException:
                    frames.close()
                    raise
        except TimeoutError as exc:
            raise LostError(f"the guest did not open {kind} within {deadline_s:g} s") from exc
        except OSError as exc:
            raise LostError(f"the guest is gone: {exc}") from exc
        except wire.WireError as exc:
            raise GuestError(f"the guest broke the contract: {exc}") from exc
        return frames

    async def connect(self, port: int, *, wait_s: float) -> socket.socket:
        """A plain byte stream to a TCP port of the guest's loopback.

        :param wait_s: how long the guest waits for somebody to listen there.
        :raise RefusedError: nobody listens.
        """
        frames = await self.open("connect", deadline_s=wait_s + _OPEN_S, port=port, wait_s=wait_s)
        return frames.detach()

    async def power_off(self) -> None:
        """Ask for an orderly end; returns when the guest has acknowledged or is gone."""
        with contextlib.suppress(LostError, GuestError):
            await self._link.request("poweroff", deadline_s=5.0)

    async def wait_lost(self) -> str:
        """Wait until the control connection has ended; say how, for people."""
        return await self._link.wait_closed()

    async def close(self) -> None:
        """Close the control connection."""
        await self._link.close()

    async def _start_stream(self, frames: Frames, kind: str, args: dict[str, Any]) -> None:
        await frames.send(Type.OPEN, {"kind": kind, **args})
        answer, payload = await frames.receive()
        message = wire.parse(answer, payload)
        if answer is Type.REFUSED:
            code = message.get("code")
            raise RefusedError(words_of(message), code=code if isinstance(code, int) else 1)
        if answer is not Type.OPENED:
            raise wire.WireError(f"{answer.name} answers OPEN")


class RefusedError(GuestError):
    """The guest refuses to open a stream. ``code`` is the exit code a shell would give (126, 127)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code
