"""The owner's lease: a sandbox ends when the process it belongs to is gone."""

import asyncio

from hyper_kernel.host.process import read_start_ticks, watch_exit
from hyper_kernel.spec import Owner


async def wait_orphaned(owner: Owner) -> str:
    """Wait until the owner has been gone for its grace period; say so for people."""
    try:
        if read_start_ticks(owner.pid) == owner.start_ticks:
            await watch_exit(owner.pid).wait()
    except ProcessLookupError:
        pass  # it went before we looked
    await asyncio.sleep(owner.grace_s)
    return f"its client (process {owner.pid}) is gone"
