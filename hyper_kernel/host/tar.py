"""Reading a tar archive that a guest made: what Python's own reader does not promise about hostile ones.

``tarfile`` keeps as much of extended headers in memory as the archive says, and follows what it says about links. This
reader knows files and folders (ustar, GNU long names, pax paths and sizes), holds at most ``MAX_EXTENDED`` bytes, and
writes nothing outside the folder it is given. See "ustar Interchange Format" and "pax Header Block" in POSIX.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hyper_kernel.errors import GuestError, HostError

BLOCK = 512
#: Bytes of one extended header that are held; a path is at most 4096 bytes on Linux.
MAX_EXTENDED = 64 * 1024
#: What one archive may write, unless the caller says otherwise.
MAX_BYTES = 64 << 30
MAX_ENTRIES = 1_000_000
_READ = 128 * 1024
_FILES, _FOLDERS, _LINKS = frozenset("0\0007"), frozenset("5"), frozenset("12")


class Readable(Protocol):
    """Where an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Up to this many bytes; empty at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry: ``kind`` is ``file``, ``folder``, ``link`` or ``other``; ``path`` is what the archive says."""

    path: str
    kind: str
    size: int
    mode: int
    mtime: float
    target: str = ""


class TarReader:
    """The entries of an archive, in order.

    :param source: read from once, from its beginning.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Entries; :meth:`content` reads the current one's, and what is left of it is skipped.

        :raise GuestError: it is no archive, or breaks off.
        """
        extended: dict[str, str] = {}
        while (block := self._read_header()) is not None:
            kind = chr(block[156])
            size = _number(block[124:136])
            if kind in "xLKg":
                extended |= self._read_extended(kind, size)
                continue
            entry = _apply(_entry(block, kind, size), extended)
            extended = {}
            # links have a size in some archives, and no content
            self._open(entry.size if entry.kind != "link" else 0)
            yield entry
            for _ in self.content():
                pass
            self._skip(self._padding)

    def content(self) -> Iterator[bytes]:
        """The current entry's bytes, piece by piece."""
        while self._left:
            data = self._source.read(min(self._left, _READ))
            if not data:
                raise GuestError("the archive breaks off in the middle of a file")
            self._left -= len(data)
            yield data

    def _open(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _read_header(self) -> bytes | None:
        """The next header; None at the end."""
        block = self._read_exactly(BLOCK, may_end=True)
        if not block or not block.strip(b"\0"):
            return None
        said = _number(block[148:156])
        if said != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
            raise GuestError("the archive has a header that is damaged")
        return block

    def _read_extended(self, kind: str, size: int) -> dict[str, str]:
        # SECURITY: the one place where the archive says how much is held in memory.
        if size > MAX_EXTENDED:
            raise GuestError(f"the archive has an extended header of {size} bytes, over the limit of {MAX_EXTENDED}")
        data = self._read_exactly(size)
        self._skip(-size % BLOCK)
        if kind in "LK":
            return {"path" if kind == "L" else "linkpath": data.rstrip(b"\0").decode(errors="surrogateescape")}
        return _parse_pax(data) if kind == "x" else {}

    def _read_exactly(self, size: int, *, may_end: bool = False) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._source.read(size - len(data))
            if not piece:
                if may_end and not data:
                    return b""
                raise GuestError("the archive breaks off")
            data += piece
        return data

    def _skip(self, size: int) -> None:
        self._read_exactly(size)


def extract(source: Readable, folder: Path, name: str, *, max_bytes: int = MAX_BYTES) -> int:
    """Write an archive's files and folders below ``folder / name``, which takes the place of its first path part.

    Links, devices and all else are left out. Files that exist are replaced, links that exist are never followed.

    :param folder: exists.
    :param name: the first entry's new name.
    :return: how many entries were left out.
    :raise GuestError: the archive is damaged, names a place outside, or is larger than ``max_bytes``.
    :raise HostError: this machine refuses to write.
    """
    left_out, written = 0, 0
    reader = TarReader(source)
    for number, entry in enumerate(reader):
        written += entry.size
        if number >= MAX_ENTRIES or written > max_bytes:
            raise GuestError(f"the archive is larger than {max_bytes} bytes or {MAX_ENTRIES} entries")
        if entry.kind not in ("file", "folder"):
            left_out += 1
            continue
        parts = (name, *_parts(entry.path)[1:])
        try:
            _write(folder, parts, entry, reader)
        except OSError as exc:
            raise HostError(f"cannot write {folder.joinpath(*parts)}: {exc.strerror}") from exc
    return left_out


def _write(folder: Path, parts: tuple[str, ...], entry: Entry, reader: TarReader) -> None:
    if entry.kind == "folder":
        with _open_folder(folder, parts) as fd:
            os.fchmod(fd, 0o700 | (entry.mode & 0o777))
        return
    with _open_folder(folder, parts[:-1]) as parent:
        # SECURITY: O_NOFOLLOW, so that a link that stands there is refused; no set-uid bits come out of a guest.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, 0o600, dir_fd=parent)
        with open(fd, "wb") as file:
            for data in reader.content():
                file.write(data)
            os.fchmod(fd, entry.mode & 0o777)
            os.utime(fd, (entry.mtime, entry.mtime))


@contextmanager
def _open_folder(folder: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of a folder below ``folder``, made where it is missing; no link on the way is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _parts(path: str) -> tuple[str, ...]:
    """The parts of an entry's path.

    :raise GuestError: it leads out of the folder.
    """
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    # SECURITY: ".." is refused, not resolved; an absolute path has become a relative one.
    if ".." in parts or any("\0" in part for part in parts):
        raise GuestError(f"the archive names a place outside: {path[:200]!r}")
    return parts


def _entry(block: bytes, kind: str, size: int) -> Entry:
    name, prefix = _text(block[:100]), _text(block[345:500])
    is_ustar = block[257:263] == b"ustar\0"
    path = f"{prefix}/{name}" if is_ustar and prefix else name
    mtime = float(_number(block[136:148]))
    if kind in _FILES and path.endswith("/"):
        kind = "5"  # how archives before POSIX say it
    words = {**dict.fromkeys(_FILES, "file"), **dict.fromkeys(_FOLDERS, "folder"), **dict.fromkeys(_LINKS, "link")}
    word = words.get(kind, "other")
    mode = stat.S_IMODE(_number(block[100:108]))
    return Entry(path=path, kind=word, size=size, mode=mode, mtime=_bounded(mtime), target=_text(block[157:257]))


def _apply(entry: Entry, extended: dict[str, str]) -> Entry:
    """The entry with what extended headers said about it."""
    if not extended:
        return entry
    try:
        size = int(extended.get("size", entry.size))
        mtime = _bounded(float(extended.get("mtime", entry.mtime)))
    except ValueError as exc:
        raise GuestError("the archive has an extended header that is damaged") from exc
    if size < 0:
        raise GuestError("the archive has a file of negative size")
    path, target = extended.get("path", entry.path), extended.get("linkpath", entry.target)
    return replace(entry, path=path, size=size, mtime=mtime, target=target)


def _parse_pax(data: bytes) -> dict[str, str]:
    """The records ``"%d %s=%s\\n"`` of a pax header that matter here."""
    found = {}
    while data:
        number, space, _ = data[:20].partition(b" ")
        length = int(number) if space and number.isdigit() else 0
        if not len(number) < length <= len(data):
            raise GuestError("the archive has a pax header that is damaged")
        key, _, value = data[len(number) + 1 : length].removesuffix(b"\n").partition(b"=")
        if key in (b"path", b"linkpath", b"size", b"mtime"):
            found[key.decode()] = value.decode(errors="surrogateescape")
        data = data[length:]
    return found


def _number(field: bytes) -> int:
    """A number as octal digits, or in GNU's binary form."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if len(digits) > 12 or any(digit not in b"01234567" for digit in digits):
        raise GuestError("the archive has a header that is damaged")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _bounded(mtime: float) -> float:
    """A time that every file system takes."""
    return mtime if 0 <= mtime < 1 << 33 else 0.0
