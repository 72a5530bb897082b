"""``put``, ``get`` and ``list`` streams, served by a process that has the image's root as its own.

Imported by that process only, after the fork: tarfile and what it imports cost memory that the agent need not hold.
"""

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator

from guest import machine
from guest.changes import find_changes, list_folder, list_layer
from guest.children import enter
from guest.frames import Frames
from hyper_kernel import wire
from hyper_kernel.wire import Type


def serve(kind: str, frames: Frames, path: str, root: str, since_ns: int | None, max_size: int | None) -> None:
    """Serve one stream up to its EXIT, with ``root`` as this (forked) process's root folder; ends it with 1 on failure.

    :param kind: put, get, list, or layer.
    :param since_ns: get only what has changed since then; None: all. Of a list: what counts as changed.
    :param max_size: get no file that is larger; None: all.
    """
    try:
        if kind == "layer":
            _send(frames, list_layer(f"{machine.SCRATCH}/upper", machine.LOWER))
            return
        enter(root)
        if kind == "put":
            _put(frames, path)
        elif kind == "list":
            _send(frames, list_folder(path, since_ns or 0))
        else:
            _get(frames, path, since_ns, max_size)
    except (OSError, tarfile.TarError, EOFError, wire.WireError) as exc:
        frames.send(Type.STDERR, f"{kind} {path}: {exc}".encode()[: wire.MAX_DATA])
        os._exit(1)


def _put(frames: Frames, path: str) -> None:
    """Unpack the archive that comes in below ``path``, which is made where it is missing.

    :raise OSError, tarfile.TarError, EOFError: what went wrong; what was unpacked so far stays.
    """
    os.makedirs(path, exist_ok=True)
    source = io.BufferedReader(_Input(frames), wire.MAX_DATA)
    with tarfile.open(fileobj=source, mode="r|*") as archive:
        for member in archive:
            archive.extract(member, path, numeric_owner=True)
    while source.read(wire.MAX_DATA):
        pass  # padding after the archive's end


def _send(frames: Frames, lines: Iterator[bytes]) -> None:
    """Send lines in few frames.

    :raise OSError: the connection is gone.
    """
    # typeshed wants a raw file that takes any buffer; BufferedWriter has bytes.
    with io.BufferedWriter(_Output(frames), wire.MAX_DATA) as file:  # type: ignore[type-var]
        for line in lines:
            file.write(line)


def _get(frames: Frames, path: str, since_ns: int | None, max_size: int | None) -> None:
    """Send an archive of ``path``, a folder or one file, named as its last part; links are sent as links.

    :param since_ns: send what has changed below it since then instead, named from there.
    :param max_size: of that, leave out files that are larger.
    :raise OSError: what went wrong.
    """
    with tarfile.open(fileobj=_Output(frames), mode="w|", bufsize=wire.MAX_DATA, format=tarfile.PAX_FORMAT) as archive:
        if since_ns is None:
            archive.add(path, os.path.basename(os.path.normpath(path)) or ".")
            return
        for changed, facts in find_changes(path, since_ns):
            if max_size is not None and stat.S_ISREG(facts.st_mode) and facts.st_size > max_size:
                continue
            with contextlib.suppress(FileNotFoundError):  # programs that run meanwhile may remove it
                archive.add(changed, os.path.relpath(changed, path), recursive=False)


class _Input(io.RawIOBase):
    """STDIN frames as a file; its end is STDIN_EOF, and a connection that ends before that is an error."""

    def __init__(self, frames: Frames) -> None:
        super().__init__()
        self._pieces = self._read_pieces(frames)
        self._piece = b""

    def readable(self) -> bool:
        """Called by BufferedReader."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants its private protocol
        """Called by BufferedReader; 0 at the end."""
        if not self._piece:
            self._piece = next(self._pieces, b"")
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    @staticmethod
    def _read_pieces(frames: Frames) -> Iterator[bytes]:
        for kind, payload in frames.read():
            if kind is Type.STDIN_EOF:
                return
            if kind is not Type.STDIN:
                raise wire.WireError(f"{kind.name} is not for a put stream")
            if payload:
                yield payload
        raise EOFError("the connection ended before the archive did")


class _Output(io.RawIOBase):
    """A file that sends what is written as STDOUT frames."""

    def __init__(self, frames: Frames) -> None:
        super().__init__()
        self._frames = frames

    def writable(self) -> bool:
        """Called by tarfile's users of files."""
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # typeshed allows any buffer; tarfile has bytes
        """Called by tarfile."""
        for start in range(0, len(data), wire.MAX_DATA):
            self._frames.send(Type.STDOUT, bytes(data[start : start + wire.MAX_DATA]))
        return len(data)
