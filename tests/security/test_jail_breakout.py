"""The jail tried from inside, by a program that attempts to break out; and proof that its attempts can get through."""

import asyncio
import json
import platform
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hyper_kernel.host.seccomp import refuse
from hyper_kernel.hypervisor import Tier
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.jail import qemu_jail
from hyper_kernel.qemu.selftest import PROGRAM, breakout_argv, open_targets, parse_attempts, plan_machine, try_jail

HYPER = (sys.executable, "-c", "from hyper_kernel.cli.main import main; main()")
JAIL = qemu_jail(plan_machine(Tier.SOFTWARE))
ALL_PASS = refuse([])


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPER_HOME", str(tmp_path / "hyper"))
    return find_paths()


def test_nothing_gets_out(paths):
    attempts = asyncio.run(try_jail(paths))
    assert [attempt for attempt in attempts if not attempt.ok] == []
    assert len(attempts) > 100
    assert list(paths.state.iterdir()) == []


def test_the_command_says_so(paths):
    done = subprocess.run([*HYPER, "doctor", "--selftest"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read /etc/passwd" in done.stdout
    assert "none got through" in done.stdout


def test_without_a_jail_the_same_attempts_get_out(paths):
    """Else they would prove nothing."""
    with open_targets(paths) as targets, PROGRAM.open() as program:
        targets |= {"devices": [], "fds": [0, 1, 2, program.fileno()]}
        words = breakout_argv(sys.executable, program.fileno(), targets)
        done = subprocess.run(words, pass_fds=[program.fileno()], capture_output=True, text=True, timeout=60)
    attempts = parse_attempts(done.stdout)
    through = {attempt.what for attempt in attempts if not attempt.ok}
    assert through >= {
        "read /etc/passwd",
        f"read {paths.state}",
        *(f"read {path}" for path in targets["paths"][:2]),
        f"connect to {targets['sockets'][0]}",
        "connect to an abstract socket",
        "connect to a port of the host",
        "make a file in any folder",
        "find the host's name",
        "see other processes",
        "signal a process of the host",
        "hold a process of the host (pidfd)",
        "trace a process of the host (ptrace)",
        "open its memory (/proc/PID/mem)",
        "start a process (fork)",
        "open TCP socket",
        "be without a filter of system calls",
        "gain privileges by a program",
        "start 1000 threads",
        "take 64 GiB of addresses",
        "memfd_create",
    }
    assert platform.node() in {attempt.ended for attempt in attempts}


def test_without_the_filter_the_namespaces_hold(paths):
    """One wall down: the kernel is asked more, but files, sockets and processes stay out of reach."""
    attempts = {attempt.what: attempt for attempt in asyncio.run(try_jail(paths, replace(JAIL, syscalls=ALL_PASS)))}
    through = {what for what, attempt in attempts.items() if not attempt.ok}
    assert through >= {"start a process (fork)", "open TCP socket", "memfd_create"}
    held = ("read ", "connect ", "find ", "see ", "make a file", "change ", "signal ", "trace ", "open its memory")
    assert not {what for what in through if what.startswith(held)}
    assert {attempts[what].ended for what in ("mount", "chroot", "sethostname", "swapon", "reboot")} <= {"EPERM"}


@pytest.mark.parametrize(
    ("hole", "seen"),
    [
        ({"readable": (*JAIL.readable, Path("/etc/passwd"))}, "read /etc/passwd"),
        ({"readable": (*JAIL.readable, Path("/var"))}, "read /var"),
        ({"limits": ((resource.RLIMIT_CORE, 1),)}, "leave a core file"),
        ({"tasks": 4096}, "start 1000 threads"),
        ({"syscalls": ALL_PASS}, "start a process (fork)"),
    ],
    ids=["a file", "a folder", "core", "threads", "filter"],
)
def test_one_hole_is_found(paths, hole, seen):
    assert seen in {attempt.what for attempt in asyncio.run(try_jail(paths, replace(JAIL, **hole))) if not attempt.ok}


def test_attempts_that_are_cut_short_are_no_success(paths):
    """A filter that kills, or an attempt that hangs the program, must not look like a jail that holds."""
    with pytest.raises(Exception, match="cut short"):
        parse_attempts(json.dumps({"what": "a", "ended": "EPERM", "ok": True}))
    with pytest.raises(Exception, match="cut short"):
        parse_attempts("")
