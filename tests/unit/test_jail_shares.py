"""Shares of the processors and bounds by cgroups; the latter on a tree of files that looks like the kernel's."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyper_kernel.host.cgroup import cpu_words, find_base, find_cpu_limit, hold_in_cgroup
from hyper_kernel.host.share import hold_cpu


@pytest.fixture
def busy():
    """A process that would use a whole processor."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        yield child.pid
        child.kill()


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("percent", [10, 40])
def test_a_share_is_held_and_given_back(busy, percent):
    async def work():
        clock = ~busy << 3 | 2
        began, used = time.monotonic(), time.clock_gettime(clock)
        async with hold_cpu(busy, percent):
            await asyncio.sleep(1.0)  # what is measured is time itself
        share = (time.clock_gettime(clock) - used) / (time.monotonic() - began)
        assert share < percent / 100 + 0.1
        assert state(busy) != "T"

    asyncio.run(work())


def test_no_share_is_no_limit_and_an_end_is_no_error(busy):
    async def work():
        async with hold_cpu(busy, 0):
            assert len(asyncio.all_tasks()) == 1
        async with hold_cpu(busy, 5):
            os.kill(busy, signal.SIGKILL)
            await asyncio.sleep(0.3)
        async with hold_cpu(busy, 5):
            pass

    asyncio.run(work())


def tree(tmp_path, own="/user.slice/app.slice/lab.service", *, offered="cpu memory pids", handed=""):
    """What /proc and /sys/fs/cgroup show of a process in a cgroup with processes of its own."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:name=systemd:/\n0::{own}\n")
    folder = tmp_path / "cgroup"
    for part in ("", *Path(own).parts[1:]):
        folder = folder / part
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text(offered)
        (folder / "cgroup.subtree_control").write_text(handed)
        (folder / "cgroup.procs").write_text("")
    (folder / "cgroup.subtree_control").unlink()
    (folder / "cgroup.subtree_control").mkdir()  # EISDIR stands for EBUSY: it has processes
    return tmp_path / "proc", tmp_path / "cgroup"


def test_the_nearest_cgroup_without_processes_is_the_base(tmp_path):
    proc, mount = tree(tmp_path)
    base = find_base(proc, mount)
    assert base == mount / "user.slice/app.slice"
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


@pytest.mark.parametrize("offered", ["", "cpu", "cpu memory"])
def test_without_the_controllers_there_is_no_base(tmp_path, offered):
    assert find_base(*tree(tmp_path, offered=offered)) is None


def test_without_version_2_there_is_no_base(tmp_path):
    proc, mount = tree(tmp_path)
    (proc / "self/cgroup").write_text("4:memory:/\n")
    assert find_base(proc, mount) is None


def test_a_process_is_bounded_and_its_cgroup_goes(tmp_path):
    """Files of the kernel go with their folder; these do not, so that what was written can be read."""
    proc, mount = tree(tmp_path)
    base = find_base(proc, mount)
    (base / "hyper-999999999").mkdir()  # left behind by a process that was killed
    with hold_in_cgroup(4711, memory_bytes=1 << 30, tasks=97, base=base):
        folder = base / "hyper-4711"
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "memory.max": str(1 << 30),
            "pids.max": "97",
            "cgroup.procs": "4711",
        }
        (proc / "4711").mkdir()
        (proc / "4711/cgroup").write_text(f"0::/{folder.relative_to(mount)}\n")
        assert find_cpu_limit(4711, mount, proc) is None
        (folder / "cpu.max").write_text("")
        assert find_cpu_limit(4711, mount, proc) == folder / "cpu.max"
        for path in folder.iterdir():
            path.unlink()
    assert not list(base.glob("hyper-*"))


def test_without_a_base_nothing_is_done():
    with hold_in_cgroup(4711, memory_bytes=1, tasks=1, base=None):
        pass


def test_a_share_is_written_in_microseconds():
    assert [cpu_words(percent) for percent in (0, 50, 250)] == ["max 100000", "50000 100000", "250000 100000"]
