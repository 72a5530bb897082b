"""A notebook's folder, read in as a copy."""

import hashlib
import os
import stat
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hyper_kernel.errors import RequestError
from hyper_kernel.limits import MAX_COPY_BYTES, MAX_COPY_FILES
from hyper_kernel.review.changes import FOLDER

#: Made again by their tools: nobody misses them.
_SKIPPED = frozenset({"__pycache__", "node_modules", ".ipynb_checkpoints"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What of a folder goes in: paths relative to it, folders before what they hold; and how many people will miss."""

    paths: tuple[str, ...]
    left_out: int


def plan_copy(folder: Path) -> CopyPlan:
    """Choose what is copied: nearest files first, up to ``MAX_COPY_FILES`` and ``MAX_COPY_BYTES``.

    Hidden files stay out (they hold keys and histories), and so do links, devices and sockets.

    :raise RequestError: the folder cannot be read.
    """
    paths: list[str] = []
    left_out, total = 0, 0
    waiting = deque([""])
    while waiting:
        here = waiting.popleft()
        for entry in _scan(folder, here):
            if entry.name in _SKIPPED:
                continue
            path = os.path.join(here, entry.name)
            info = entry.stat(follow_symlinks=False)
            wanted = stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            full = len(paths) >= MAX_COPY_FILES or total + size > MAX_COPY_BYTES
            # SECURITY: links are never followed: one to a key outside the folder would carry it into the guest.
            if not wanted or full or entry.name.startswith("."):
                left_out += 1
                continue
            total += size
            paths.append(path)
            if stat.S_ISDIR(info.st_mode):
                waiting.append(path)
    return CopyPlan(paths=tuple(paths), left_out=left_out)


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar archive, read from its start, and what is in it: paths to SHA-256, or ``FOLDER``."""

    file: IO[bytes]
    base: dict[str, str]


@contextmanager
def open_archive(folder: Path, plan: CopyPlan) -> Iterator[Archive]:
    """An archive of what was planned, as an unnamed temporary file.

    Files that vanished since are left out; owners are not told to the guest.
    """
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                added = {path: _add(archive, root, path) for path in plan.paths}
            file.seek(0)
            yield Archive(file, {path: digest for path, digest in added.items() if digest is not None})
    finally:
        os.close(root)


def _scan(folder: Path, here: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder / here) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        if here:
            return []  # a subfolder that vanished or that this user may not read
        raise RequestError(
            f"cannot read the notebook's folder {folder}: {exc.strerror}", hint="use files=none"
        ) from exc


def _add(archive: tarfile.TarFile, root: int, path: str) -> str | None:
    """Add one path; the SHA-256 of what was added, or ``FOLDER``; None where there is nothing to add any more."""
    try:
        # SECURITY: O_NOFOLLOW, since a file may have become a link after the plan was made.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return None
    try:
        facts = os.fstat(fd)
        info = tarfile.TarInfo(path)
        info.mode, info.mtime = stat.S_IMODE(facts.st_mode) & 0o777, int(facts.st_mtime)
        if stat.S_ISDIR(facts.st_mode):
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
            return FOLDER
        if stat.S_ISREG(facts.st_mode):
            info.size = facts.st_size
            with open(fd, "rb", closefd=False) as file:
                hashed = _Hashed(file)
                archive.addfile(info, hashed)
                return hashed.digest()
        return None
    finally:
        os.close(fd)


class _Hashed:
    """A file as tarfile reads it, whose SHA-256 is known afterwards; one that shrinks meanwhile ends in zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hashed = hashlib.sha256()

    def read(self, size: int = 0, /) -> bytes:
        """Called by tarfile, with all sizes together as large as it was told the file is."""
        data = self._file.read(size).ljust(size, b"\0")
        self._hashed.update(data)
        return data

    def digest(self) -> str:
        """In hexadecimal digits."""
        return self._hashed.hexdigest()
