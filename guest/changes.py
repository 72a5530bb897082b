"""What has changed below a folder since its files were put there."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from hyper_kernel.wire import MAX_CHANGES


def find_changes(folder: str, since_ns: int) -> Iterator[str]:
    """Files, links and folders below ``folder`` whose inode changed after a time (of CLOCK_REALTIME); folders first.

    At most ``MAX_CHANGES``; sockets and the like are left out, and so is what cannot be read or vanishes meanwhile.
    """
    waiting = [folder]
    left = MAX_CHANGES
    while waiting:
        for path, facts in _scan(waiting.pop()):
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(path)
            elif not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
                continue
            if facts.st_ctime_ns > since_ns:
                yield path
                left -= 1
                if left == 0:
                    return


def _scan(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                yield entry.path, entry.stat(follow_symlinks=False)
