"""The door of every start: memory, numbers, turns."""

import asyncio
import functools
import socket
import subprocess
import sys

import pytest

from hyper_kernel.daemon.admission import Admission, Facts, count_turns, decide_admission, plan_reserve
from hyper_kernel.errors import BusyError
from hyper_kernel.host.memory import Memory, read_memory
from hyper_kernel.limits import FIRST_BYTES
from hyper_kernel.sandbox.record import State
from tests.fakes.fixtures import kernel, shell, wait_until

GIB = 1 << 30


def memory(available, total=24 * GIB, name="this host"):
    return Memory(name=name, total_bytes=total, available_bytes=int(available))


def decide(*memories, starting=0):
    return decide_admission(Facts(memories=memories, starting=starting))


def test_a_hundred_guests_of_half_a_gibibyte_fit_24_gibibytes():
    free = 22 * GIB
    for _ in range(100):
        assert decide(memory(free), starting=3) is None
        free -= FIRST_BYTES


def test_a_refusal_names_the_limit_what_is_there_and_what_to_do():
    refusal = decide(memory(1.2 * GIB), starting=2)
    assert str(refusal) == (
        "no memory for another sandbox: 1228 MiB of this host's 24576 MiB available, less 288 MiB for it and 2 that "
        "start, is below the limit of 1228 MiB that stays free"
    )
    assert "hyper stop" in refusal.hint


def test_starts_under_way_count_though_their_memory_is_not_taken_yet():
    room = plan_reserve(24 * GIB) + 3 * FIRST_BYTES
    assert decide(memory(room), starting=2) is None
    assert decide(memory(room), starting=3) is not None


def test_the_tightest_memory_decides():
    refusal = decide(memory(22 * GIB), memory(0.3 * GIB, 2 * GIB, "cgroup /user.slice"))
    assert "307 MiB of cgroup /user.slice's 2048 MiB" in str(refusal)


@pytest.mark.parametrize(("total", "reserve"), [(24 * GIB, 24 * GIB // 20), (8 * GIB, GIB), (2 * GIB, GIB // 2)])
def test_the_reserve_fits_the_host(total, reserve):
    assert plan_reserve(total) == reserve
    assert decide(memory(total, total)) is None


def test_memory_is_read_of_the_host_and_of_every_cgroup_that_limits(tmp_path):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  8000 kB\nMemFree: 1 kB\nMemAvailable:  5000 kB\nHugePages_Total:  0\n")
    (proc / "self/cgroup").write_text("1:name=systemd:/x\n0::/a/b\n")
    limits = {"a/b": "max", "a": "4000000", ".": "6000000"}
    for folder, limit in limits.items():
        (cgroups / folder).mkdir(parents=True, exist_ok=True)
        (cgroups / folder / "memory.max").write_text(f"{limit}\n")
        (cgroups / folder / "memory.current").write_text("3000000\n")
        (cgroups / folder / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    host, inner, outer = read_memory(proc, cgroups)
    assert (host.total_bytes, host.available_bytes) == (8000 << 10, 5000 << 10)
    assert (inner.name, inner.total_bytes, inner.available_bytes) == ("cgroup /a", 4_000_000, 1_500_000)
    assert (outer.name, outer.available_bytes) == ("cgroup /", 3_500_000)


def test_a_host_without_cgroups_is_read(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("4:memory:/x\n")
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 5 kB\n")
    assert len(read_memory(tmp_path, tmp_path)) == 1
    assert read_memory()[0].available_bytes > 0


class Start:
    """A start that ends when it is told to."""

    def __init__(self, admission, order, name):
        self.end = asyncio.Event()
        self._order, self._name = order, name
        self.task = asyncio.create_task(self._run(admission))

    async def _run(self, admission):
        turn = await admission.wait_turn()
        await turn.spend(self._work())

    async def _work(self):
        self._order.append(self._name)
        await self.end.wait()


def on_a_loop(test):
    """Run a test on an event loop of its own."""
    return functools.wraps(test)(lambda: asyncio.run(test()))


async def settle():
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@on_a_loop
async def test_so_many_starts_are_under_way_and_the_rest_wait_in_order():
    admission, order = Admission(lambda: (), turns=2), []
    starts = [Start(admission, order, name) for name in range(5)]
    await settle()
    assert order == [0, 1]
    starts[1].end.set()
    await settle()
    assert order == [0, 1, 2]
    for start in starts:
        start.end.set()
    await asyncio.gather(*(start.task for start in starts))
    assert order == [0, 1, 2, 3, 4]


@on_a_loop
async def test_who_gives_up_leaves_the_queue_even_at_the_moment_of_its_turn():
    admission, order = Admission(lambda: (), turns=1), []
    turn = await admission.wait_turn()
    first, second, third = (Start(admission, order, name) for name in range(3))
    await settle()
    first.task.cancel()
    await turn.spend(do_nothing())
    second.task.cancel()  # it has been given its turn, and has not run since
    await settle()
    assert order == [2]
    third.end.set()
    await third.task


async def do_nothing():
    """Work that is done at once."""


@on_a_loop
async def test_a_start_that_fails_gives_its_turn_back():
    admission = Admission(lambda: (), turns=1)

    async def fail():
        raise BusyError("no")

    for _ in range(3):
        turn = await admission.wait_turn()
        with pytest.raises(BusyError):
            await turn.spend(fail())


@on_a_loop
async def test_the_starts_under_way_are_in_the_facts():
    room = plan_reserve(24 * GIB) + 2 * FIRST_BYTES
    admission = Admission(lambda: (memory(room),), turns=3)
    await admission.wait_turn()
    await admission.wait_turn()
    admission.check()
    await admission.wait_turn()
    with pytest.raises(BusyError, match="and 2 that start"):
        admission.check()


def test_hyperd_may_open_a_descriptor_for_every_sandbox():
    script = (
        "import resource as r, hyper_kernel.daemon.__main__ as main\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, min(2048, r.getrlimit(r.RLIMIT_NOFILE)[1])))\n"
        "main.raise_file_limit(); soft, hard = r.getrlimit(r.RLIMIT_NOFILE)\n"
        "assert soft == hard, soft\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.fixture
def full(client):
    """A hyperd on a host without room; yields what makes room."""
    (client.paths.state.parent / "memory").write_text("1000")
    return lambda: (client.paths.state.parent / "memory").write_text("20000")


def test_hyperd_refuses_a_start_and_the_next_one_may_come_in(client, full):
    record = client.create(shell("sleep 60"))
    with pytest.raises(BusyError, match="no memory for another sandbox: 1000 MiB of this host's 24576 MiB") as caught:
        client.start(record.id)
    assert "hyper stop" in caught.value.hint
    assert client.sandbox(record.id) == record
    full()
    client.start(record.id)
    assert client.sandbox(record.id).state is State.RUNNING


def test_a_refusal_leaves_no_kernel_and_no_sandbox_that_removes_itself(client, full):
    with pytest.raises(BusyError, match="no memory") as caught:
        client.start_kernel(kernel())
    assert "hyper stop" in caught.value.hint
    record = client.create(shell("true", auto_remove=True))
    with client.waiting(record.id, "removed") as ends:
        with pytest.raises(BusyError):
            client.start(record.id)
        assert next(ends).code == 0
    assert client.sandboxes(everything=True) == []


def test_a_restart_passes_the_same_door(client, full):
    full()
    record = client.create(shell("sleep 60"))
    client.start(record.id)
    (client.paths.state.parent / "memory").write_text("1000")
    with pytest.raises(BusyError):
        client.restart(record.id)
    assert client.sandbox(record.id).state is State.EXITED


def test_a_sandbox_that_waits_for_its_turn_can_be_removed_and_one_whose_client_left_is_not_started(client):
    turns = count_turns()
    hanging = [client.create(shell("true", labels={"fake.boot": "hang"})).id for _ in range(turns)]
    left, removed, last = (client.create(shell("sleep 60")).id for _ in range(3))
    starts = [begin_start(client, ident) for ident in hanging]
    wait_until(lambda: len(client.sandboxes()) == turns)
    starts += [begin_start(client, ident) for ident in (left, removed, last)]
    starts[turns].close()
    client.remove(removed)
    for ident in hanging:
        client.remove(ident, force=True)
    wait_until(lambda: client.sandbox(last).state is State.RUNNING)
    assert b"404" in starts[turns + 1].recv(4096)
    assert client.sandbox(left).state is State.CREATED
    for start in starts:
        start.close()


def begin_start(client, ident):
    """A connection on which a start has been asked for."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(client.paths.socket))
    sock.sendall(b"POST /containers/%s/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % ident.encode())
    return sock
