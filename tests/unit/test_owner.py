"""Whom a sandbox belongs to: the lease in the shim, and taking a kernel over through hyperd."""

import asyncio
import os
import subprocess
from dataclasses import replace

import pytest

from hyper_kernel.errors import ConflictError, RequestError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.sandbox.death import Death
from hyper_kernel.shim.owner import Lease
from hyper_kernel.spec import Owner
from tests.fakes.fixtures import kernel


@pytest.fixture
def child():
    """A process that ends when its input does."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def owner_of(pid, grace_s=0.0):
    return Owner(pid=pid, start_ticks=read_start_ticks(pid), grace_s=grace_s)


def end(process):
    process.stdin.close()
    process.wait()


def test_a_lease_ends_with_its_owner(child):
    async def work():
        lease = Lease(owner_of(child.pid))
        ending = asyncio.create_task(lease.wait_end())
        await asyncio.sleep(0)
        end(child)
        cause = await asyncio.wait_for(ending, 10)
        assert cause.death is Death.OWNER_GONE and str(child.pid) in cause.reason

    asyncio.run(work())


@pytest.mark.parametrize("first", [None, "child"])
def test_a_lease_that_is_handed_over_ends_with_the_new_owner_alone(child, first):
    async def work():
        lease = Lease(owner_of(child.pid, grace_s=60) if first else None)
        ending = asyncio.create_task(lease.wait_end())
        await asyncio.sleep(0)
        end(child)
        lease.hand_over(owner_of(os.getpid()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ending), 0.1)
        lease.hand_over(Owner(pid=child.pid, start_ticks=1))  # a process that is gone
        assert (await asyncio.wait_for(ending, 10)).death is Death.OWNER_GONE

    asyncio.run(work())


def test_another_process_with_the_owners_number_is_not_the_owner():
    async def work():
        cause = await asyncio.wait_for(Lease(replace(owner_of(os.getpid()), start_ticks=1)).wait_end(), 10)
        assert cause.death is Death.OWNER_GONE

    asyncio.run(work())


def test_a_kernel_is_taken_over_once_its_owner_has_ended(client, child):
    started = client.start_kernel(kernel(owner=owner_of(child.pid, grace_s=60)))
    mine = owner_of(os.getpid(), grace_s=5)
    with pytest.raises(ConflictError, match=f"belongs to process {child.pid}, which lives"):
        client.own_kernel(started["id"], mine)
    end(child)
    taken = client.own_kernel(started["id"], mine)
    assert (taken["id"], taken["key"], taken["signature_scheme"]) == (started["id"], "secret", "hmac-sha256")
    assert client.sandbox(started["id"]).spec.owner == mine
    assert client.own_kernel(started["id"], mine)["state"] == "running"  # again: nothing happens


@pytest.mark.parametrize("wrong", [{}, {"pid": "1", "start_ticks": 1}, {"pid": 1, "start_ticks": 1, "more": 1}])
def test_an_owner_that_cannot_be_read_is_refused(client, wrong):
    started = client.start_kernel(kernel())
    with pytest.raises(RequestError, match="the owner cannot be read"):
        client._json("POST", f"/hyper/v1/kernels/{started['id']}/owner", body=wrong)


def test_what_a_kernel_said_meanwhile_is_handed_out_and_forgotten(client):
    started = client.start_kernel(kernel())
    expected = {"messages": [{"channel": "iopub", "parts": ["bWlzc2Vk"]}], "is_cut": True}
    assert client.take_missed(started["id"]) == expected
    assert not list(client.paths.sandboxes.glob("*/missed.jsonl"))
    client.kill(started["id"])
    assert client.take_missed(started["id"]) == {"messages": [], "is_cut": False}
