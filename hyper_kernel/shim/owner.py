"""The owner's lease: a sandbox ends when the process it belongs to is gone."""

import asyncio
import contextlib

from hyper_kernel.host.process import read_start_ticks, watch_exit
from hyper_kernel.sandbox.death import Cause, Death, named
from hyper_kernel.spec import Owner


async def wait_orphaned(owner: Owner) -> Cause:
    """Wait until the owner has been gone for its grace period."""
    with contextlib.suppress(ProcessLookupError):  # it went before we looked
        ended = watch_exit(owner.pid)
        # Only now: what is watched is the process that we ask about, whoever may get its number later.
        if read_start_ticks(owner.pid) == owner.start_ticks:
            await ended.wait()
    await asyncio.sleep(owner.grace_s)
    return named(Death.OWNER_GONE, f"its client (process {owner.pid}) has ended")
