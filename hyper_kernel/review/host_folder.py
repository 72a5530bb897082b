"""The host's folder that a copy was made of: compared with what its sandbox changed, and changed as people wish."""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from hyper_kernel.errors import ConflictError, HostError, RequestError
from hyper_kernel.host.beneath import open_folder
from hyper_kernel.limits import MAX_COPY_BYTES
from hyper_kernel.review.changes import FOLDER, Change, Kind
from hyper_kernel.review.kept import MAX_TEXT, Text, copy, open_content

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = 256 * 1024
#: In the place of a digest: what is no regular file or folder, or stands behind something that is no folder; and a
#: file that is larger than any that was copied in.
_OTHER, _LARGE = "other", "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a change stands to the host's folder: ``is_done`` where that has it already; else ``reason`` says why it
    cannot be made, and ``is_conflict`` whether that is because the host changed it, too."""

    is_done: bool = False
    is_conflict: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A file's content as one side has it; ``text`` where it can be shown as such."""

    size: int
    digest: str
    text: str | None


def compare(change: Change, present: str | None) -> Standing:
    """Whether a change is made already, or can be made; pure.

    :param present: SHA-256 of what the host has there; ``FOLDER``; None for nothing; ``_OTHER`` and ``_LARGE``.
    """
    if change.fault:
        return Standing(reason=change.fault)
    wanted = None if change.kind is Kind.DELETED else FOLDER if change.is_folder else change.digest
    if present == wanted:
        return Standing(is_done=True)
    expected = None if change.kind is Kind.ADDED else FOLDER if change.is_folder else change.base
    if present == expected:
        return Standing()
    if present == _OTHER or FOLDER in (present, wanted) or (change.is_folder and present):
        return Standing(reason="something else stands there on this machine: a link, a device, or a folder for a file")
    words = {None: "deleted on this machine since", _LARGE: "changed on this machine, too"}
    why = "made on this machine, too" if change.kind is Kind.ADDED else words.get(present, words[_LARGE])
    return Standing(is_conflict=True, reason=why)


class HostFolder:
    """A folder of the host, as it was opened; see :meth:`open`. Nothing outside it is read or written.

    :param root: its descriptor.
    """

    def __init__(self, root: int, path: str) -> None:
        self._root = root
        self._path = path

    @classmethod
    @contextmanager
    def open(cls, path: str) -> Iterator[Self]:
        """Open it.

        :raise RequestError: it is not there any more.
        """
        try:
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise RequestError(f"cannot open the folder {path}: {exc.strerror}", hint="it was there before") from exc
        try:
            yield cls(root, path)
        finally:
            os.close(root)

    def look(self, change: Change) -> Standing:
        """How a change stands to what is there now."""
        return compare(change, None if change.fault else self._find(change.path))

    def read(self, path: str) -> Side | None:
        """What is there now; None where it is no file.

        :param path: one without a fault.
        """
        *above, name = path.split("/")
        try:
            with open_folder(self._root, above) as parent, open(os.open(name, _OPEN, dir_fd=parent), "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_COPY_BYTES:
                    return None
                return read_side(file)
        except OSError:
            return None

    def apply(self, change: Change, sandbox: Path, *, force: bool = False) -> None:
        """Make a change, whole or not at all; does nothing where that is made already.

        :param sandbox: the sandbox's folder, with the review that the change is of.
        :param force: also where the host changed the same file: what it has is lost then.
        :raise ConflictError: the host changed it, too, or something else stands there.
        :raise GuestError: what is kept of the sandbox's file is not what was looked at.
        :raise HostError: this machine refuses.
        """
        try:
            if not self._check(change, force=force).is_done:
                self._apply(change, sandbox, force=force)
        except OSError as exc:
            raise HostError(f"this machine refuses: {exc.strerror}") from exc

    def _apply(self, change: Change, sandbox: Path, *, force: bool) -> None:
        *above, name = change.path.split("/")
        with open_folder(self._root, above, make=change.kind is not Kind.DELETED) as parent:
            if change.kind is Kind.DELETED:
                self._check(change, force=force)
                (os.rmdir if change.is_folder else os.unlink)(name, dir_fd=parent)
            elif change.is_folder:
                os.mkdir(name, dir_fd=parent)
            else:
                self._replace(change, parent, name, sandbox, force=force)

    def _replace(self, change: Change, parent: int, name: str, sandbox: Path, *, force: bool) -> None:
        """Write beside the file, then take its place: whoever reads or crashes finds one of the two, and whole."""
        partial = f".{name[:40]}.{secrets.token_hex(8)}.partial"
        before = _stat(parent, name)
        # SECURITY: no set-uid bit and no right to execute comes out of a guest: a file keeps the rights that it has on
        # the host, and a new one gets those of any new file.
        mode = stat.S_IMODE(before.st_mode) & 0o777 if before else 0o666
        fd = os.open(partial, _NEW, mode, dir_fd=parent)
        try:
            with open(fd, "wb") as file, open_content(sandbox, change.digest) as content:
                copy(content, change.size, change.digest, file.write)
                if before:
                    os.fchmod(fd, mode)
                    with suppress(OSError):  # an ordinary user's new files are their own
                        os.fchown(fd, before.st_uid, before.st_gid)
                file.flush()
                os.fsync(fd)
            # SECURITY: looked at once more, now that all is ready: nothing that somebody wrote meanwhile is lost.
            self._check(change, force=force)
            os.rename(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial, dir_fd=parent)
            raise

    def _check(self, change: Change, *, force: bool) -> Standing:
        standing = self.look(change)
        if standing.reason and not (force and standing.is_conflict):
            raise ConflictError(standing.reason)
        return standing

    def _find(self, path: str) -> str | None:
        """What the host has at a path, in the words of :func:`compare`."""
        *above, name = path.split("/")
        try:
            with open_folder(self._root, above) as parent:
                if (facts := _stat(parent, name)) is None:
                    return None
                if stat.S_ISDIR(facts.st_mode):
                    return FOLDER
                if not stat.S_ISREG(facts.st_mode):
                    return _OTHER
                if facts.st_size > MAX_COPY_BYTES:
                    return _LARGE
                with open(os.open(name, _OPEN, dir_fd=parent), "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        except OSError:
            return _OTHER


def read_side(file: IO[bytes]) -> Side:
    """A file's content up to its end: its size, SHA-256 and text."""
    hashed, size, pieces, text = hashlib.sha256(), 0, [], Text(0)
    while data := file.read(_READ):
        hashed.update(data)
        size += len(data)
        text.feed(data)
        if size <= MAX_TEXT:
            pieces.append(data)
    is_text = text.end() and size <= MAX_TEXT
    return Side(size=size, digest=hashed.hexdigest(), text=b"".join(pieces).decode() if is_text else None)


def _stat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
