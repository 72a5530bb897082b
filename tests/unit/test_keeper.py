"""What hyperd does about a shim that no longer answers, with a fake shim that is a real process."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.keeper import Keeper
from hyper_kernel.daemon.shims import listen
from hyper_kernel.paths import find_paths, make_private
from hyper_kernel.sandbox.death import Death
from hyper_kernel.sandbox.record import Record, State
from tests.fakes.fixtures import shell


@pytest.fixture
def sandbox(fake_home):
    """A box whose fake shim runs ``sleep``, and the shim's process."""
    paths = find_paths()
    record = Record(id="ab" * 32, name="ada", spec=shell("sleep 60"), image_id="", created_s=time.time())
    record.save(paths.sandboxes)
    box = Box(record, paths, lambda box, before: None)
    make_private(box.socket.parent)
    box.renew()
    with listen(box.socket) as listener:
        command = [sys.executable, "-m", "tests.fakes.shim", record.id, str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
    box.shim_pid = process.pid
    yield box, process
    process.kill()
    process.wait()


async def meet(box, **times):
    keeper = Keeper(find_paths(), **times)
    await keeper.meet(box)
    await box.wait_for(lambda: box.record.state is State.RUNNING)
    return keeper


def test_a_shim_that_hangs_is_killed(sandbox):
    box, process = sandbox

    async def live():
        keeper = await meet(box, ask_every_s=0.1, answer_s=0.5)
        os.kill(process.pid, signal.SIGSTOP)
        await box.wait_for(lambda: box.shim is None)
        await keeper.close()

    asyncio.run(live())
    assert process.wait(10) == -signal.SIGKILL
    assert box.record.state is State.EXITED
    assert box.record.death == Death.HOST_LOST
    assert box.record.reason == "host lost: the shim did not answer for 0.5 s"
    assert not box.socket.exists()


def test_a_shim_that_answers_is_asked_again_and_lives(sandbox):
    box, process = sandbox

    async def live():
        keeper = await meet(box, ask_every_s=0.01, answer_s=30)
        asked, request = asyncio.Semaphore(0), box.shim.request

        async def count(op, **args):
            answer = await request(op, **args)
            asked.release()
            return answer

        box.shim.request = count
        for _ in range(5):
            await asked.acquire()
        assert box.is_live
        await box.request("kill")
        await box.wait_for(lambda: box.shim is None)
        await keeper.close()

    asyncio.run(live())
    assert process.wait(10) == 0
    assert box.record.death == Death.KILLED
