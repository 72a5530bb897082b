"""The owner's lease: whose number it is, and when it is over."""

import asyncio
import os
import subprocess
import time

import pytest

from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.sandbox.death import Death
from hyper_kernel.shim.owner import wait_orphaned
from hyper_kernel.spec import Owner

_PATIENCE_S = 10.0


def wait(owner, act=lambda: None):
    async def bounded():
        async with asyncio.timeout(_PATIENCE_S):
            waiting = asyncio.create_task(wait_orphaned(owner))
            await asyncio.sleep(0)
            assert not waiting.done()
            act()
            return await waiting

    return asyncio.run(bounded())


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_it_lasts_until_the_owner_ends_and_then_for_its_grace(child):
    owner = Owner(pid=child.pid, start_ticks=read_start_ticks(child.pid), grace_s=0.2)
    ended = []

    def end():
        child.kill()
        ended.append(time.monotonic())

    cause = wait(owner, end)
    assert time.monotonic() - ended[0] >= 0.2
    assert (cause.death, cause.reason) == (Death.OWNER_GONE, f"owner gone: its client (process {child.pid}) has ended")


def test_a_process_that_got_the_owners_number_is_not_the_owner():
    owner = Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()) - 1)
    assert wait(owner).death is Death.OWNER_GONE


def test_an_owner_that_went_before_anybody_looked_is_gone(child):
    child.kill()
    child.wait()
    assert wait(Owner(pid=child.pid, start_ticks=1)).death is Death.OWNER_GONE
