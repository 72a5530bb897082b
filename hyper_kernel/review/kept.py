"""What is kept beside a sandbox's record: what was copied in, and what it changed, as somebody looked at it.

The shim, which reads what the guest sends, writes it; hyperd reads it as if it came from the guest itself.
"""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hyper_kernel.errors import ConflictError, GuestError, HostError
from hyper_kernel.host.tar import Readable, TarReader
from hyper_kernel.review.changes import Change, Kept, Seen
from hyper_kernel.wire import MAX_CHANGES, MAX_LISTED

#: A file that is larger is not shown as text, in bytes.
MAX_TEXT = 4 << 20
#: Bytes of what a guest lists.
MAX_LISTING = 16 << 20
_BASE, _FOLDER, _CHANGES = "copied.json", "review", "changes.json"
_MAX_JSON = 64 << 20
_LINE = re.compile(rb"([fdl])([+=-])(\d{1,18}) (.+)", re.DOTALL)
_READ = 256 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """What a guest lists, see ``list`` in ``wire``."""

    kind: str
    mark: str
    size: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a sandbox had changed at ``taken_s`` (seconds since the epoch), and what is to be said of that."""

    taken_s: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"taken_s": self.taken_s, "changes": [each.as_dict() for each in self.changes], "notes": [*self.notes]}


def parse_lines(data: bytes) -> Iterator[Line]:
    """What a guest lists.

    :raise GuestError: it is no such list, or too long.
    """
    for number, line in enumerate(data.split(b"\0")[:-1]):
        match = _LINE.fullmatch(line)
        # SECURITY: whatever else it says, it is names and numbers, and no more than MAX_LISTED of them.
        if not match or number >= MAX_LISTED:
            raise GuestError("the guest does not say what it changed")
        kind, mark, size, name = match.groups()
        yield Line(kind.decode(), mark.decode(), int(size), os.fsdecode(name))


def parse_listing(data: bytes) -> dict[str, Seen]:
    """What a guest lists below its folder, by path.

    :raise GuestError: it is no such list.
    """
    lines = parse_lines(data)
    return {each.path: Seen(path=each.path, kind=each.kind, is_new=each.mark == "+", size=each.size) for each in lines}


def read_base(folder: Path) -> dict[str, str]:
    """What was copied into a sandbox: path to SHA-256 (folders: empty). Empty where nothing was.

    :param folder: the sandbox's.
    :raise HostError: it cannot be read.
    """
    try:
        data = _read(folder / _BASE)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        raise HostError(f"cannot read what was copied into the sandbox: {exc}", hint="start it again") from exc
    if not isinstance(data, dict) or any(not isinstance(digest, str) for digest in data.values()):
        raise HostError(f"{folder / _BASE} is damaged", hint="start the sandbox again")
    return data


def write_base(folder: Path, base: Mapping[str, str]) -> None:
    """Keep what was copied into a sandbox.

    :raise HostError: the disk refuses.
    """
    _write(folder / _BASE, base)


def stage(archive: Readable, folder: Path, wanted: Iterable[str]) -> dict[str, Kept]:
    """Keep the contents of an archive's files, each under its SHA-256; by path.

    :param archive: a guest made it.
    :param folder: the sandbox's.
    :param wanted: paths; all else in the archive is left out.
    :raise GuestError: it is damaged.
    :raise HostError: the disk refuses.
    """
    kept, place, names = {}, folder / _FOLDER, frozenset(wanted)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        reader = TarReader(archive)
        for entry in reader:
            # SECURITY: only regular files, and only under the name of their content: nothing that the guest says
            # becomes a path here. Modes, owners and links are not even looked at.
            if entry.kind == "file" and entry.path in names:
                kept[entry.path] = _keep(reader.content(), entry.size, place)
    except OSError as exc:
        raise HostError(f"cannot keep what the kernel wrote: {exc}", hint="free some space") from exc
    return kept


def write_review(folder: Path, review: Review) -> None:
    """Keep a review in place of the one before, whose contents go.

    :param folder: the sandbox's.
    :raise HostError: the disk refuses.
    """
    place = folder / _FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    _write(place / _CHANGES, review.as_dict())
    needed = {change.digest for change in review.changes} | {_CHANGES}
    for path in place.iterdir():
        if path.name not in needed:
            path.unlink(missing_ok=True)


def read_review(folder: Path) -> Review | None:
    """The last review of a sandbox; None where nobody looked yet.

    :raise GuestError: it is none: the shim that wrote it is not to be trusted.
    """
    try:
        data = _read(folder / _FOLDER / _CHANGES)
        changes = tuple(Change.from_dict(each) for each in data["changes"][:MAX_CHANGES])
        notes = tuple(str(note)[:500] for note in data["notes"][:10])
        return Review(taken_s=float(data["taken_s"]), changes=changes, notes=notes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise GuestError(f"what the sandbox changed cannot be read: {exc}", hint="look again") from exc


def drop_review(folder: Path) -> None:
    """Forget the last review: its sandbox has another machine now."""
    (folder / _FOLDER / _CHANGES).unlink(missing_ok=True)


@contextmanager
def open_content(folder: Path, digest: str) -> Iterator[IO[bytes]]:
    """The content that a review has under a SHA-256; whoever reads it checks that it is so (see :func:`copy`).

    :param folder: the sandbox's.
    :raise ConflictError: it is there no more: somebody looked again.
    """
    try:
        # SECURITY: no link is followed, and no pipe waited for; what is read counts only if its SHA-256 is right.
        place = os.open(folder / _FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        finally:
            os.close(place)
    except OSError as exc:
        raise ConflictError("the sandbox's changes were looked at again meanwhile", hint="look again") from exc
    with open(fd, "rb") as file:
        yield file


def copy(source: IO[bytes], size: int, digest: str, write: Callable[[bytes], object]) -> None:
    """Hand content on piece by piece.

    :raise GuestError: it is not of this size or SHA-256; what was handed on must not be used.
    """
    hashed, left = hashlib.sha256(), size
    while left and (data := source.read(min(left, _READ))):
        left -= len(data)
        hashed.update(data)
        write(data)
    if left or hashed.hexdigest() != digest:
        raise GuestError("what is kept of the sandbox's files is not what was looked at", hint="look again")


def _keep(content: Iterable[bytes], size: int, place: Path) -> Kept:
    partial, hashed, text = place / "partial", hashlib.sha256(), Text(size)
    with partial.open("wb") as file:
        for data in content:
            file.write(data)
            hashed.update(data)
            text.feed(data)
    partial.replace(place / hashed.hexdigest())
    return Kept(size, hashed.hexdigest(), text.end())


class Text:
    """Tells whether a content can be shown as text: UTF-8 without zeros, and no larger than ``MAX_TEXT``."""

    def __init__(self, size: int) -> None:
        self._is_text = size <= MAX_TEXT
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Take the next piece."""
        if self._is_text:
            try:
                self._decoder.decode(data, final)
                self._is_text = b"\0" not in data
            except UnicodeDecodeError:
                self._is_text = False

    def end(self) -> bool:
        """Whether it is, once all has come."""
        self.feed(b"", final=True)
        return self._is_text


def _read(path: Path) -> Any:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise ValueError(f"{path} is over the limit of {_MAX_JSON} bytes")
    return json.loads(data)


def _write(path: Path, value: Any) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        # SECURITY: O_EXCL: a link that somebody put there is not written through.
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(value, file)
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise HostError(f"cannot write {path}: {exc}", hint="free some space") from exc
