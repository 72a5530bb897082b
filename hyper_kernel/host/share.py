"""A share of the processors for a process: by its cgroup, and else by stopping it for a while, again and again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hyper_kernel.host.cgroup import cpu_words, find_cpu_limit

#: How long a process runs between two looks, and how long while it is in debt, in seconds.
_LOOK_S, _BREATH_S = 0.05, 0.005
#: How long it is stopped at most before it breathes: it answers its monitor then.
_STOP_S = 0.2


@asynccontextmanager
async def hold_cpu(pid: int, percent: int) -> AsyncIterator[None]:
    """Let a process have no more than a share of processor time while the context lasts.

    :param percent: of one processor, so that 150 is one and a half; 0: no limit.
    """
    if percent == 0:
        yield
    elif limit := find_cpu_limit(pid):
        limit.write_text(cpu_words(percent))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the process has ended, and its cgroup with it
                limit.write_text(cpu_words(0))
    else:
        rationing = asyncio.create_task(_ration(pid, percent / 100))
        try:
            yield
        finally:
            rationing.cancel()
            await asyncio.gather(rationing, return_exceptions=True)


async def _ration(pid: int, share: float) -> None:
    """Stop a process for as long as it is ahead of its share; returns when it has ended."""
    # The clock of a process's processor time; see clock_getcpuclockid(3) and the kernel's posix-timers_types.h.
    clock = ~pid << 3 | 2
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    debt, seen, used = 0.0, time.monotonic(), time.clock_gettime(clock)
    try:
        while True:
            await asyncio.sleep(_BREATH_S if debt > 0 else _LOOK_S)  # nothing tells when processor time is used
            then, before = seen, used
            seen, used = time.monotonic(), time.clock_gettime(clock)
            # What it leaves unused is not saved up for more than a moment.
            debt = max(debt + used - before - share * (seen - then), -share * _LOOK_S)
            if debt > 0:
                await _stop(pidfd, min(debt / share, _STOP_S))
    except OSError:
        pass  # it has ended
    finally:
        os.close(pidfd)


async def _stop(pidfd: int, seconds: float) -> None:
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
