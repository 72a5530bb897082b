"""What has changed below a folder since its files were put there."""

import os
import stat
from collections.abc import Iterator

from hyper_kernel.wire import MAX_CHANGES


def find_changes(folder: str, since_ns: int) -> Iterator[str]:
    """Files, links and folders below ``folder`` whose inode changed after a time (of CLOCK_REALTIME); folders first.

    At most ``MAX_CHANGES``; sockets and the like are left out. What cannot be read is passed over.
    """
    found = 0
    waiting = [folder]
    while waiting:
        for entry in _scan(waiting.pop()):
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(entry.path)
            elif not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
                continue
            if facts.st_ctime_ns > since_ns and found < MAX_CHANGES:
                found += 1
                yield entry.path


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
