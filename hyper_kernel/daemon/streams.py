"""Between a client's hijacked connection and a stream of a sandbox."""

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator
from typing import Protocol

from hyper_kernel.daemon.box import Box
from hyper_kernel.errors import RequestError
from hyper_kernel.link import Frames
from hyper_kernel.wire import MAX_DATA, Type, WireError, parse

log = logging.getLogger(__name__)

_NUMBERS = {Type.STDOUT: 1, Type.STDERR: 2}
_NAMES = {"stdout": Type.STDOUT, "stderr": Type.STDERR}
#: What `docker` uses where nothing else is said.
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


class Client(Protocol):
    """A connection that left HTTP; see ``server.Hijacked``."""

    async def receive(self) -> bytes:
        """Bytes; empty at the end."""

    async def send(self, data: bytes) -> None:
        """Send all. :raise OSError: gone."""


def encode(kind: Type, data: bytes, *, raw: bool) -> bytes:
    """Output as Docker sends it: as it is for a terminal, else with the stream's number and length before it."""
    return data if raw else struct.pack(">BxxxI", _NUMBERS[kind], len(data)) + data


class DetachKeys:
    """Finds the keys that end an attach without ending the program.

    :param text: as in ``ctrl-p,ctrl-q`` or ``a,b``.
    :raise RequestError: it cannot be read.
    """

    def __init__(self, text: str) -> None:
        self._keys = bytes(_key(name) for name in (text or DEFAULT_DETACH_KEYS).split(","))
        self._seen = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were pressed; keys that may be a beginning are held back."""
        passed = bytearray()
        for byte in data:
            if byte != self._keys[self._seen]:
                passed += self._keys[: self._seen]
                self._seen = 0
            if byte == self._keys[self._seen]:
                self._seen += 1
                if self._seen == len(self._keys):
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False


def _key(name: str) -> int:
    if len(name) == 1:
        return ord(name) & 0x7F
    if name.startswith("ctrl-") and len(name) == 6 and name[5] in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
        return ord(name[5].upper()) - 64
    raise RequestError(f"invalid detach keys: {name!r}", hint="write them like ctrl-p,ctrl-q")


async def carry(
    client: Client, frames: Frames, *, raw: bool, stdin: bool, wanted: frozenset[Type], keys: DetachKeys | None = None
) -> int | None:
    """Carry both ways until the program ends, the client leaves, or the detach keys are pressed.

    :param raw: for a terminal, whose output is not multiplexed.
    :param wanted: STDOUT, STDERR or both.
    :return: the program's exit code; None where the client left first.
    """
    outward = asyncio.create_task(_carry_out(client, frames, raw=raw, wanted=wanted))
    inward = asyncio.create_task(_carry_in(client, frames, stdin=stdin, keys=keys))
    try:
        await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
        if inward.done() and not outward.done() and inward.result():
            return None
        return await outward
    finally:
        for task in (outward, inward):
            task.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)


async def _carry_out(client: Client, frames: Frames, *, raw: bool, wanted: frozenset[Type]) -> int | None:
    try:
        async for kind, payload in frames:
            if kind is Type.EXIT:
                return code_of(payload)
            if kind in wanted:
                await client.send(encode(kind, payload, raw=raw))
    except (OSError, WireError) as exc:
        log.debug("an attached client's stream ended: %s", exc)
    return None


async def _carry_in(client: Client, frames: Frames, *, stdin: bool, keys: DetachKeys | None) -> bool:
    """Pass the client's input on to its end; whether it detached. A client that closes may still read."""
    try:
        while data := await client.receive():
            if not stdin:
                continue
            data, detached = keys.feed(data) if keys else (data, False)
            for start in range(0, len(data), MAX_DATA):
                await frames.send(Type.STDIN, data[start : start + MAX_DATA])
            if detached:
                return True
        if stdin:
            await frames.send(Type.STDIN_EOF)
    except OSError as exc:
        log.debug("input was not taken: %s", exc)
    return False


def code_of(payload: bytes) -> int:
    """The exit code in EXIT's payload as a shell counts it; -1 where it has none."""
    message = parse(Type.EXIT, payload)
    code, number = message.get("code"), message.get("signal")
    if isinstance(code, int):
        return code
    return 128 + number if isinstance(number, int) else -1


async def replay(client: Client, box: Box, *, raw: bool, wanted: frozenset[Type]) -> None:
    """Send what a sandbox that has exited wrote, to a client that attached before it started."""
    for kind, data in read_output(box):
        if kind in wanted:
            await client.send(encode(kind, data, raw=raw))


def read_output(box: Box) -> list[tuple[Type, bytes]]:
    """All that was kept of a sandbox's output."""
    try:
        lines = (box.folder / "output.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    entries = (json.loads(line) for line in lines)
    return [(_NAMES[entry["stream"]], entry["log"].encode()) for entry in entries]


async def archive_chunks(frames: Frames, what: str) -> AsyncIterator[bytes]:
    """The archive that a ``get`` stream carries.

    :raise RequestError: the guest could not make it, with its reason.
    """
    words = b""
    async for kind, payload in frames:
        if kind is Type.STDOUT:
            yield payload
        elif kind is Type.STDERR:
            words = (words + payload)[-2000:]
        elif kind is Type.EXIT:
            if code_of(payload) == 0:
                return
            break
    raise RequestError(f"{what} failed: {words.decode(errors='replace').strip() or 'the guest gave no reason'}")
