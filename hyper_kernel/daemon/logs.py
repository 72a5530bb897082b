"""What a sandbox's program has written, and what it goes on writing."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.shims import RefusedError, open_stream
from hyper_kernel.daemon.streams import encode
from hyper_kernel.errors import LostError, RequestError
from hyper_kernel.link import Frames
from hyper_kernel.wire import Type, WireError

log = logging.getLogger(__name__)

_KINDS = {"stdout": Type.STDOUT, "stderr": Type.STDERR}
_READ = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What is wanted of a log. Times are seconds since the epoch; ``tail`` counts lines, None is all."""

    kinds: frozenset[Type]
    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since_s: float = 0.0
    until_s: float = float("inf")


class _Output:
    """Reads the entries of ``output.jsonl`` as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """The whole entries that came since the last call."""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except OSError:
                return []
        entries: list[dict[str, Any]] = []
        while data := self._file.read(_READ):
            *lines, self._rest = (self._rest + data).split(b"\n")
            entries += (json.loads(line) for line in lines if line)
        return entries

    def close(self) -> None:
        if self._file:
            self._file.close()


async def read_log(box: Box, query: LogQuery) -> AsyncIterator[bytes]:
    """The log as Docker sends it, piece by piece.

    To follow, the shim's stream only says *that* there is more: the words come from the file, which has their times
    and in which none is missing or doubled.
    """
    bell = await _open_bell(box) if query.follow else None
    output = _Output(box.folder / "output.jsonl")
    raw = box.record.spec.process.tty
    try:
        yield b"".join(_render(entry, query, raw=raw) for entry in _tail(output.read(), query))
        if bell is None:
            return
        async for _ in _ring(bell, query):
            if data := b"".join(_render(entry, query, raw=raw) for entry in _select(output.read(), query)):
                yield data
        yield b"".join(_render(entry, query, raw=raw) for entry in _select(output.read(), query))
    finally:
        output.close()
        if bell:
            bell.close()


async def _open_bell(box: Box) -> Frames | None:
    """A stream that has a frame for each piece of output; None where the sandbox has ended."""
    if not box.is_live:
        return None
    try:
        await box.wait_for(lambda: box.shim is not None or not box.is_live)
        return (await open_stream(box.socket, "attach", stdin=False, backlog=False))[0]
    except (LostError, RefusedError) as exc:
        log.debug("%r is not followed: %s", box, exc)
        return None


async def _ring(bell: Frames, query: LogQuery) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_seconds_until(query.until_s)):
            async for kind, _ in bell:
                if kind is Type.EXIT:
                    return
                yield
    except (TimeoutError, WireError):
        return


def _seconds_until(epoch_s: float) -> float | None:
    return None if epoch_s == float("inf") else max(0.0, epoch_s - datetime.now().timestamp())


def _select(entries: list[dict[str, Any]], query: LogQuery) -> list[dict[str, Any]]:
    return [
        entry
        for entry in entries
        if _KINDS.get(entry["stream"]) in query.kinds and query.since_s <= _time_s(entry) <= query.until_s
    ]


def _tail(entries: list[dict[str, Any]], query: LogQuery) -> list[dict[str, Any]]:
    """The entries that hold the last lines, the first of them cut."""
    selected = _select(entries, query)
    if query.tail is None:
        return selected
    kept: list[dict[str, Any]] = []
    missing = query.tail
    for entry in reversed(selected):
        # a piece that does not end its line belongs to the line that the piece after it begins with
        open_ended = bool(kept) and not entry["log"].endswith("\n")
        if missing + open_ended <= 0:
            break
        keep = entry["log"].splitlines(keepends=True)[-(missing + open_ended) :]
        missing -= len(keep) - open_ended
        kept.append({**entry, "log": "".join(keep)})
    return kept[::-1]


def _render(entry: dict[str, Any], query: LogQuery, *, raw: bool) -> bytes:
    text = entry["log"]
    if query.timestamps:
        text = "".join(f"{entry['time']} {line}" for line in text.splitlines(keepends=True))
    return encode(_KINDS[entry["stream"]], text.encode(), raw=raw)


def _time_s(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()


def parse_time(text: str, default: float) -> float:
    """Docker's times: seconds since the epoch with an optional fraction, or RFC 3339; empty and 0 are ``default``.

    :raise RequestError: it is neither.
    """
    if text in ("", "0"):
        return default
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError as exc:
        raise RequestError(f"{text!r} is not a time", hint="write seconds since 1970 or 2026-01-31T12:00:00Z") from exc


def parse_tail(text: str) -> int | None:
    """Docker's tail: a number of lines; ``all``, nothing and negative numbers are all.

    :raise RequestError: it is no number.
    """
    if text in ("", "all"):
        return None
    try:
        count = int(text)
    except ValueError as exc:
        raise RequestError(f"tail={text!r} is not a number of lines") from exc
    return None if count < 0 else count
