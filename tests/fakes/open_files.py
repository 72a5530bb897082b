"""Which files this process has open, for tests that nothing is left open."""

import gc
import os
import time

#: How long what earlier tests left to other threads may take to go, in seconds.
_SETTLE_S = 5.0


def count_open() -> int:
    """How many; without those of objects that nobody can reach any more, which go at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def assert_no_more_open(before: int) -> None:
    """Nothing was opened and not closed since then. Numbers would not do: other threads open and close, too."""
    deadline_s = time.monotonic() + _SETTLE_S
    while count_open() > before:
        assert time.monotonic() < deadline_s, f"{count_open()} files are open, and {before} were"
        time.sleep(0.01)  # there is no event for another thread's closing
