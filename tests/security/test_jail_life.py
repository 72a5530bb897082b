"""What the host's kernel says of a QEMU in its jail, and how the two end."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from hyper_kernel.host.jail import FIRST_UID, OOM_SCORE, JailError, jail_argv, plan_identity, sweep_jails
from hyper_kernel.host.process import is_alive, read_parent, read_start_ticks
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.mounts.server import plan_argv, plan_jail
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.argv import BINARY
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.qemu.jail import qemu_jail
from hyper_kernel.rootfs.guest import build_guest
from tests.fakes.fixtures import wait_until
from tests.fakes.open_files import assert_no_more_open, count_open

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
OWN = Path("/proc/self/ns")


@pytest.fixture(scope="module")
def config():
    guest = build_guest(find_paths(), lambda what, done, total: None)
    return MachineConfig(
        name="hyper-jailed",
        tier=Tier.SOFTWARE,
        memory_mib=256,
        cpus=1,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        disks=(guest.system,),
    )


@pytest.fixture
def run(config, tmp_path):
    """Run something with a machine."""

    def run(work):
        async def with_machine():
            async with asyncio.timeout(60), Qemu().start(config, tmp_path) as machine:
                return await work(machine)

        return asyncio.run(with_machine())

    return run


def status(pid):
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, _, value in lines}


def test_qemu_has_nothing_of_the_host(run, config):
    async def look(machine):
        proc = Path(f"/proc/{machine.pid}")
        facts = status(machine.pid)
        assert {value[0] for name, value in facts.items() if name.startswith("Cap")} == {"0" * 16}
        assert (facts["Seccomp"], facts["NoNewPrivs"]) == (["2"], ["1"])
        assert int(facts["Seccomp_filters"][0]) >= 2  # ours, and QEMU's own
        assert [
            name for name in NAMESPACES if os.readlink(proc / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")
        ] == []
        assert facts["NSpid"][-1] == "1"
        assert sorted(os.listdir(proc / "root")) == ["dev", "lib", "lib64", "proc", "usr"]
        assert os.listdir(proc / "root/dev") == ["null"]
        assert os.readlink(proc / "cwd") == "/"
        words = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        for name in (config.kernel, config.kernel.parent.name, Path.home(), find_paths().data, "HOME", "USER"):
            assert str(name).encode() not in words
        mounts = (proc / "mountinfo").read_text().splitlines()
        assert [line for line in mounts if "ro" not in line.split()[5].split(",") and " /dev/null " not in line] == []

    run(look)


def test_qemu_is_nobody_and_bounded(run):
    async def look(machine):
        facts = status(machine.pid)
        if os.getuid() == 0:
            assert set(facts["Uid"]) == set(facts["Gid"]) == {str(FIRST_UID + os.getpid())}
            assert facts["Groups"] == []
        assert {name: value for name, value in read_limits(machine.pid).items() if name in LIMITS} == LIMITS
        assert int(Path(f"/proc/{machine.pid}/oom_score_adj").read_text()) >= OOM_SCORE

    run(look)


#: Names as in /proc/PID/limits, soft and hard.
LIMITS = {
    "Max core file size": ["0", "0"],
    "Max open files": ["512", "512"],
    "Max file size": [str(16 << 20)] * 2,
    "Max processes": ["97", "97"],
    "Max locked memory": ["0", "0"],
    "Max address space": [str((8 << 30) + (256 << 20))] * 2,
}


def read_limits(pid):
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def test_qemu_inherits_only_what_it_is_given(run, config):
    async def look(machine):
        folder = Path(f"/proc/{machine.pid}/fd")
        links = {os.readlink(path) for path in folder.iterdir()}
        files = {
            link for link in links if link.startswith("/") and not link.startswith(("/memfd:hyper-ram", "/dev/null"))
        }
        assert files == {str(path.resolve()) for path in (config.kernel, config.initrd, *config.disks)}
        assert not [link for link in links if "syscalls" in link]

    run(look)


@pytest.mark.parametrize("part", ["QEMU", "its jail"])
def test_each_takes_the_other_along(run, part):
    """And the end is noticed, with the signal's number."""

    async def kill(machine):
        jail = read_parent(machine.pid)
        ticks = {pid: read_start_ticks(pid) for pid in (machine.pid, jail)}
        assert Path(f"/proc/{jail}/comm").read_text() == "bwrap\n"
        os.kill(machine.pid if part == "QEMU" else jail, signal.SIGKILL)
        assert "signal 9" in str(await machine.wait_exit())
        assert not [pid for pid, start in ticks.items() if is_alive(pid, start)]

    run(kill)


def test_leaving_kills_both(config, tmp_path):
    async def work():
        async with Qemu().start(config, tmp_path) as machine:
            pids = {pid: read_start_ticks(pid) for pid in (machine.pid, read_parent(machine.pid))}
        assert not [pid for pid, start in pids.items() if is_alive(pid, start)]

    asyncio.run(work())


@pytest.mark.parametrize("after_ms", [0, 1, 3, 6, 10, 20, 40])
def test_a_start_that_is_given_up_leaves_nothing(config, tmp_path, after_ms):
    """At whatever stage of making the jail."""

    async def work():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_ms / 1000), Qemu().start(config, tmp_path) as machine:
                await machine.wait_exit()

    sweep_jails()
    before = count_open()
    asyncio.run(work())
    assert_no_more_open(before)
    assert sweep_jails() == [], "its program lives on"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def half_made(jail, words):
    """A jail whose first process waits before it has set the second one up: the pid of both."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    syscalls = os.memfd_create("syscalls")
    os.write(syscalls, jail.syscalls)
    os.lseek(syscalls, 0, os.SEEK_SET)
    argv = jail_argv(jail, words, syscalls_fd=syscalls, info_fd=writer)
    identity = plan_identity(os.getuid(), os.getpid(), Path("/proc/self/uid_map").read_text(), [])
    user = {"user": identity.uid, "group": identity.uid, "extra_groups": []} if identity else {}
    outer = subprocess.Popen(argv, pass_fds=(syscalls, writer), stdin=subprocess.DEVNULL, **user)
    try:
        wait_until(lambda: children_of(outer.pid))
        yield outer, children_of(outer.pid)[0]
    finally:
        outer.kill()
        outer.wait()
        for fd in (reader, writer, syscalls):
            os.close(fd)


@pytest.mark.parametrize("what", ["a machine", "the server of a folder"])
def test_what_a_jail_leaves_that_was_killed_while_it_was_made_is_swept(config, tmp_path, what):
    jail, words = qemu_jail(config), [shutil.which(BINARY), "-name", config.name]
    if what != "a machine":
        jail = plan_jail(tmp_path, read_only=True)
        words = plan_argv(jail.readable[0], 7, read_only=True)
    with half_made(jail, words) as (outer, inner):
        ticks = read_start_ticks(inner)
        sweep_jails()
        assert is_alive(inner, ticks), "a jail that is being made was swept"
        outer.kill()
        outer.wait()
        assert is_alive(inner, ticks), "it ends by itself: then there is nothing to sweep"
        assert inner in sweep_jails()
        wait_until(lambda: not is_alive(inner, ticks))


def test_a_machine_that_runs_is_not_swept(run):
    async def look(machine):
        assert machine.pid not in sweep_jails()
        assert is_alive(machine.pid, read_start_ticks(machine.pid))

    run(look)


def test_a_host_that_cannot_make_the_jail_is_told_what_to_do(config, tmp_path, monkeypatch):
    """Nothing runs without it."""
    with tempfile.TemporaryDirectory() as folder:  # one that QEMU's user can enter
        os.chmod(folder, 0o755)
        fake = Path(folder) / "bwrap"
        fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

        async def work():
            async with Qemu().start(config, tmp_path):
                raise AssertionError("it runs")

        with pytest.raises(JailError, match="No permissions to create new namespace") as caught:
            asyncio.run(work())
    assert caught.value.hint
