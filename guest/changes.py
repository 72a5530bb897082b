"""What has changed below a folder since its files were put there, and in the image since the machine started."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from hyper_kernel.wire import MAX_CHANGES, MAX_LISTED

_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
#: Of the image's writable layer: what the machine itself mounts or writes there (see ``machine`` and ``identity``).
_OWN = frozenset({"proc", "sys", "dev", "etc/hostname", "etc/hosts", "etc/machine-id"})


def find_changes(folder: str, since_ns: int) -> Iterator[tuple[str, os.stat_result]]:
    """Files, links and folders below ``folder`` whose inode changed after a time (of CLOCK_REALTIME); folders first.

    At most ``MAX_CHANGES``; sockets and the like are left out, and so is what cannot be read or vanishes meanwhile.
    """
    left = MAX_CHANGES
    for path, facts in _walk(folder):
        if facts.st_ctime_ns > since_ns and stat.S_IFMT(facts.st_mode) in _KINDS:
            yield path, facts
            left -= 1
            if left == 0:
                return


def list_folder(folder: str, since_ns: int) -> Iterator[bytes]:
    """All below a folder, as ``list`` sends it: ``+`` for what changed after a time (of CLOCK_REALTIME)."""
    for path, facts in _walk(folder):
        yield _line(facts, "+" if facts.st_ctime_ns > since_ns else "=", os.path.relpath(path, folder))


def list_layer(upper: str, lower: str) -> Iterator[bytes]:
    """What the image's writable layer has, as ``list`` sends it; see overlayfs in the kernel's documentation."""
    for path, facts in _walk(upper):
        inside = os.path.relpath(path, upper)
        if inside in _OWN or inside.startswith(("proc/", "sys/", "dev/")):
            continue
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
            yield _line(os.lstat(f"{lower}/{inside}"), "-", inside)
        else:
            yield _line(facts, "=" if os.path.lexists(f"{lower}/{inside}") else "+", inside)


def _line(facts: os.stat_result, mark: str, path: str) -> bytes:
    kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
    size = facts.st_size if kind == "f" else 0
    return f"{kind}{mark}{size} ".encode() + os.fsencode(path) + b"\0" if kind else b""


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """All below a folder, folders before what they hold; at most ``MAX_LISTED``."""
    waiting, left = [folder], MAX_LISTED
    while waiting:
        for path, facts in _scan(waiting.pop()):
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(path)
            yield path, facts
            left -= 1
            if left == 0:
                return


def _scan(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                yield entry.path, entry.stat(follow_symlinks=False)
