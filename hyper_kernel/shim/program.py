"""The main program of a sandbox: its output, or its kernel's, to a log and to who is attached, their input to it."""

import asyncio
import codecs
import contextlib
import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyper_kernel import wire
from hyper_kernel.errors import GuestError
from hyper_kernel.limits import MAX_LOG
from hyper_kernel.link import Frames
from hyper_kernel.sandbox.death import ProgramEnd
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)

#: An attached client that takes nothing for this long is dropped, in seconds; until then it slows the program down.
_SLOW_CLIENT_S = 20.0
_NAMES = {Type.STDOUT: "stdout", Type.STDERR: "stderr"}


class OutputLog:
    """``output.jsonl``: a line per piece of output, as Docker's json-file driver writes them.

    :param path: the file.
    :param keep: go on after what is in it: Jupyter restarts a kernel before anybody could read why it ended. Where
        half of the room is taken, begin anew all the same.
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self._path = path
        self._decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in _NAMES}
        kept = path.read_bytes() if keep and path.exists() else b""
        # The last line is cut where the disk was full, and no reader would get past it.
        self._size = len(kept) if kept.endswith(b"\n") and len(kept) <= MAX_LOG // 2 else 0
        if not self._size:
            path.write_bytes(b"")

    def append(self, kind: Type, data: bytes) -> None:
        """Add output; past ``MAX_LOG`` bytes it is dropped, with one line that says so."""
        # SECURITY: a program writes without end; the host's disk holds at most MAX_LOG bytes of it.
        if self._size > MAX_LOG:
            return
        text = self._decoders[kind].decode(data)
        if self._size + len(data) > MAX_LOG:
            text = f"\n[output log full: {MAX_LOG >> 20} MiB]\n"
        line = {"log": text, "stream": _NAMES[kind], "time": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
        encoded = json.dumps(line).encode() + b"\n"
        with self._path.open("ab") as file:
            file.write(encoded)
        self._size += max(len(encoded), len(data))

    def pieces(self) -> list[tuple[Type, bytes]]:
        """All that was kept."""
        kinds = {name: kind for kind, name in _NAMES.items()}
        lines = (json.loads(line) for line in self._path.read_bytes().splitlines())
        return [(kinds[line["stream"]], line["log"].encode()) for line in lines]


class Program:
    """The main program, from before it runs (clients attach first) until its exit has been told to all.

    :param output: keeps what it prints.
    """

    def __init__(self, output: OutputLog) -> None:
        self._output = output
        self._attached: set[Frames] = set()
        self._stream: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
        self._exit: dict[str, Any] | None = None
        #: When it last wrote something, in monotonic seconds.
        self.last_s = 0.0

    async def run(self, stream: Frames, *, open_stdin: bool) -> ProgramEnd:
        """Carry output until the program ends; how it did.

        :param stream: an exec stream of the agent's.
        :param open_stdin: whether clients may write to it; if not, it reads an empty input.
        :raise GuestError: the guest broke the contract or ended the stream without an exit code.
        """
        self._stream.set_result(stream)
        if not open_stdin:
            with contextlib.suppress(OSError):  # it ended before it could read; what it wrote is still to come
                await stream.send(Type.STDIN_EOF)
        try:
            async for kind, payload in stream:
                if kind is Type.EXIT:
                    end = ProgramEnd.read(wire.parse(kind, payload))
                    await self.finish(end.code)
                    return end
                await self._take(kind, payload)
        except wire.WireError as exc:
            raise GuestError(f"the guest broke the contract: {exc}") from exc
        raise GuestError("the program's stream ended without an exit code")

    async def follow(self, log: Frames) -> None:
        """Carry what a kernel's process writes, for as long as the guest sends it.

        :param log: a log stream of the agent's.
        :raise GuestError: the guest broke the contract.
        """
        try:
            async for kind, payload in log:
                await self._take(kind, payload)
        except wire.WireError as exc:
            raise GuestError(f"the guest broke the contract: {exc}") from exc

    async def finish(self, code: int) -> None:
        """Tell everybody attached that it ended."""
        self._exit = {"code": code, "signal": None}
        await self._deliver(Type.EXIT, self._exit)

    async def attach(self, frames: Frames, *, stdin: bool, backlog: bool) -> None:
        """Serve one client until it leaves or the program has ended."""
        sent = 0
        while backlog and (more := self._output.pieces()[sent:]):  # it goes on printing while we send
            for kind, payload in more:
                await frames.send(kind, payload)
            sent += len(more)
        if self._exit is not None:
            await frames.send(Type.EXIT, self._exit)
            return
        self._attached.add(frames)
        try:
            async for kind, payload in frames:
                if kind in (Type.STDIN, Type.STDIN_EOF) and not stdin:
                    continue
                await self.control(kind, payload)
        finally:
            self._attached.discard(frames)

    async def control(self, kind: Type, payload: bytes | dict[str, Any]) -> None:
        """Pass input, a resize or a signal to the program; waits until it has started."""
        stream = await asyncio.shield(self._stream)
        await stream.send(kind, payload)

    async def _take(self, kind: Type, payload: bytes) -> None:
        if kind not in _NAMES:
            raise wire.WireError(f"{kind.name} in a program's output")
        self.last_s = time.monotonic()
        self._output.append(kind, payload)
        await self._deliver(kind, payload)

    async def _deliver(self, kind: Type, payload: bytes | dict[str, Any]) -> None:
        for frames in tuple(self._attached):
            try:
                async with asyncio.timeout(_SLOW_CLIENT_S):
                    await frames.send(kind, payload)
            except (OSError, TimeoutError):
                self._attached.discard(frames)
                frames.close()
