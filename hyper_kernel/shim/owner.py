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


class Lease:
    """Whom a sandbox belongs to, which may change.

    :param owner: None: nobody whose end would end it.
    """

    def __init__(self, owner: Owner | None) -> None:
        self._owner = owner
        self._changed = asyncio.Event()

    def hand_over(self, owner: Owner) -> None:
        """From here on it belongs to another."""
        self._owner = owner
        self._changed.set()

    async def wait_end(self) -> Cause:
        """Wait until its owner has been gone for long enough."""
        while True:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            orphaned = asyncio.create_task(wait_orphaned(self._owner) if self._owner else _never())
            try:
                await asyncio.wait({changed, orphaned}, return_when=asyncio.FIRST_COMPLETED)
                if not changed.done():
                    return orphaned.result()
            finally:
                changed.cancel()
                orphaned.cancel()
                await asyncio.gather(changed, orphaned, return_exceptions=True)


async def _never() -> Cause:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
