"""A parked clone's process: who lets it go, who claims it, and what it does when it is not what is wanted."""

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hyper_kernel.errors import GuestError, HostError
from hyper_kernel.host.orders import do_while_held, open_orders, send_order, take_order
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.sandbox.source import Guest
from hyper_kernel.shim.parked import Parked, PoolSource, _wait_claim

CONFIG = MachineConfig(
    name="parked",
    tier=Tier.SOFTWARE,
    memory_mib=256,
    cpus=1,
    kernel=Path("vmlinuz"),
    initrd=Path("initrd"),
    cmdline="quiet",
    disks=(Path("system"), Path("disk")),
)


class FakeMachine:
    """Ends when told."""

    def __init__(self):
        self.did, self.ended = [], asyncio.Event()

    async def pause(self):
        self.did.append("pause")

    async def resume(self):
        if self.ended.is_set():
            raise HostError("QEMU ended during cont")
        self.did.append("resume")

    def move_console(self, folder):
        self.did.append(folder.name)

    async def wait_exit(self):
        await self.ended.wait()
        return "QEMU was killed"


class FakeAgent:
    async def resync(self, **identity):
        pass


async def park(machine, kernel=None, key=""):
    parked = Parked(CONFIG, kernel)
    await parked.warm(Guest(machine=machine, end=None, agent=FakeAgent(), kernel_key=key), {}, 1)
    await parked.rest()
    return parked


class OtherSource:
    """Gives another guest."""

    def __init__(self):
        self.guest = Guest(machine=FakeMachine(), end=None, agent=FakeAgent())

    @asynccontextmanager
    async def start(self, config, folder, on_event, kernel=None):
        yield self.guest


def start(change, kernel=None):
    """Start a sandbox from a parked clone, once ``change`` was done; what the machine did, whether it was dropped."""

    async def work():
        machine, other, dropped = FakeMachine(), OtherSource(), []
        parked = await park(machine)
        config = change(machine)

        async def drop():
            dropped.append(True)

        async with PoolSource(parked, other, drop).start(config, Path("/sandbox"), lambda event: None, kernel) as guest:
            return machine.did, bool(dropped), guest is other.guest

    return asyncio.run(work())


def test_what_is_wanted_wakes_under_any_name():
    did, dropped, is_other = start(lambda machine: replace(CONFIG, name="sandbox"))
    assert (did, dropped, is_other) == (["pause", "sandbox", "resume"], False, False)


@pytest.mark.parametrize(
    "differs",
    [{"cmdline": "loud"}, {"disks": (Path("system"), Path("new disk"))}, {"memory_mib": 512}, {"kernel": Path("new")}],
)
def test_what_is_not_wanted_any_more_is_ended_and_another_taken(differs):
    assert start(lambda machine: replace(CONFIG, **differs)) == (["pause"], True, True)


def test_one_without_the_kernel_is_not_wanted_where_a_kernel_is():
    assert start(lambda machine: CONFIG, kernel="python3") == (["pause"], True, True)


def test_another_is_taken_where_the_machine_has_ended():
    def end(machine):
        machine.ended.set()
        return CONFIG

    did, dropped, is_other = start(end)
    assert (did, dropped, is_other) == (["pause", "sandbox"], True, True)


def test_a_clone_for_a_kernel_that_has_none_is_not_parked():
    with pytest.raises(GuestError, match="no kernel running"):
        asyncio.run(park(FakeMachine(), kernel="python3"))


def wait_claim(work):
    """What a parked process gets while ``work`` is done with hyperd's side and the machine."""

    async def wait():
        machine, (hyperd, ours) = FakeMachine(), open_orders()
        ours.setblocking(False)
        parked = await park(machine)
        with hyperd, ours:
            waiting = asyncio.create_task(_wait_claim(ours, parked))
            await asyncio.sleep(0)
            work(hyperd, machine)
            sandbox, listener = await waiting
            with listener:
                return sandbox, listener.family

    return asyncio.run(wait())


def claim(hyperd, machine):
    with socket.socket(socket.AF_UNIX) as listener:
        send_order(hyperd, {"id": "ada"}, listener.fileno())


def test_a_sandbox_claims_it():
    assert wait_claim(claim) == ("ada", socket.AF_UNIX)


def test_it_ends_when_hyperd_lets_go():
    with pytest.raises(EOFError):
        wait_claim(lambda hyperd, machine: hyperd.close())


def test_it_ends_with_its_machine():
    with pytest.raises(EOFError):
        wait_claim(lambda hyperd, machine: machine.ended.set())


def test_a_claim_counts_that_comes_in_the_moment_the_machine_ends():
    def both(hyperd, machine):
        machine.ended.set()
        claim(hyperd, machine)

    assert wait_claim(both) == ("ada", socket.AF_UNIX)


def test_none_can_come_after_the_machine_has_ended():
    async def work():
        machine, (hyperd, ours) = FakeMachine(), open_orders()
        ours.setblocking(False)
        parked = await park(machine)
        with hyperd, ours:
            machine.ended.set()
            with pytest.raises(EOFError):
                await _wait_claim(ours, parked)
            with pytest.raises(BrokenPipeError):
                claim(hyperd, machine)

    asyncio.run(work())


def test_work_goes_on_while_the_peer_holds_its_side():
    async def work():
        hyperd, ours = open_orders()
        ours.setblocking(False)
        with hyperd, ours:
            assert await do_while_held(ours, asyncio.sleep(0, "done")) == "done"
            send_order(ours, {"answer": 1})
            assert take_order(hyperd) == ({"answer": 1}, [])

    asyncio.run(work())


def test_work_is_cancelled_and_tidies_up_when_the_peer_lets_go():
    async def work():
        (hyperd, ours), tidied = open_orders(), []
        ours.setblocking(False)

        async def forever():
            hyperd.close()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                tidied.append(True)

        with ours, pytest.raises(EOFError):
            await do_while_held(ours, forever())
        assert tidied

    asyncio.run(work())


def test_what_fails_in_the_work_is_told():
    async def work():
        async def fail():
            raise HostError("no space")

        hyperd, ours = open_orders()
        with hyperd, ours, pytest.raises(HostError, match="no space"):
            await do_while_held(ours, fail())

    asyncio.run(work())
