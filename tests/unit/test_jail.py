"""The jail's command line, users and remedies, and its filter of system calls."""

import ctypes
import errno
import json
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyper_kernel.host.jail import (
    FIRST_UID,
    Identity,
    Jail,
    JailError,
    check_made,
    find_remedy,
    jail_argv,
    plan_identity,
)
from hyper_kernel.host.seccomp import Call, allow_only, install, refuse
from hyper_kernel.hypervisor import Tier
from hyper_kernel.qemu.jail import qemu_jail
from hyper_kernel.qemu.selftest import plan_machine

GOLDEN = Path(__file__).parent / "golden"
ALL_USERS = "         0          0 4294967295\n"
JAIL = Jail(
    readable=(Path("/usr/bin/program"), Path("/usr/lib/x86_64-linux-gnu")),
    links=(("usr/lib", "/lib"),),
    devices=(Path("/dev/null"), Path("/dev/kvm")),
    syscalls=b"",
    limits=((resource.RLIMIT_CORE, 0),),
    tasks=9,
    memory_bytes=1 << 30,
)
SYS_PTRACE, SYS_GETPID, SYS_UNSHARE, SYS_PERSONALITY = 101, 39, 272, 135


def device(mode, group):
    return SimpleNamespace(st_mode=0o020000 | mode, st_gid=group)


def test_the_command_line_is_the_golden_one():
    words = jail_argv(JAIL, ["/usr/bin/program", "one", "two"], syscalls_fd=20, info_fd=21)
    assert " ".join(words).replace(" -", "\n-") + "\n" == (GOLDEN / "jail.txt").read_text()


def test_an_ordinary_user_stays_who_they_are():
    assert plan_identity(1000, 4711, ALL_USERS, []) is None


def test_root_gives_each_a_user_of_its_own_and_only_the_groups_of_its_devices():
    devices = [device(0o666, 0), device(0o660, 105), device(0o600, 0)]
    assert plan_identity(0, 4711, ALL_USERS, devices) == Identity(uid=FIRST_UID + 4711, groups=(105,))
    assert plan_identity(0, 4712, ALL_USERS, []) == Identity(uid=FIRST_UID + 4712)


def test_a_root_without_other_users_is_told_so():
    with pytest.raises(JailError) as caught:
        plan_identity(0, 4711, "0 100000 65536\n", [])
    assert str(FIRST_UID) in str(caught.value)
    assert "ordinary user" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("kernel/ostype", "Linux", "containers"),
    ],
)
def test_the_remedy_fits_the_host(tmp_path, name, value, remedy):
    setting = tmp_path / "sys" / name
    setting.parent.mkdir(parents=True)
    setting.write_text(value + "\n")
    assert remedy in find_remedy(tmp_path)


def test_a_jail_that_cannot_be_made_is_told_from_a_program_that_fails():
    check_made("qemu-system-x86_64: no such machine")
    with pytest.raises(JailError, match="No permissions to create new namespace") as caught:
        check_made("before\nbwrap: No permissions to create new namespace, likely because ...")
    assert caught.value.hint


def test_qemu_gets_no_device_it_does_not_need_and_leaves_no_core():
    jail = qemu_jail(plan_machine(Tier.SOFTWARE))
    assert jail.devices == (Path("/dev/null"),)
    assert qemu_jail(plan_machine(Tier.HARDWARE)).devices == (Path("/dev/null"), Path("/dev/kvm"))
    assert (resource.RLIMIT_CORE, 0) in jail.limits
    assert not [path for path in jail.readable if str(path).startswith(("/home", "/root", "/etc", "/var", "/tmp"))]


def test_qemu_is_found_through_a_link_where_it_really_is(monkeypatch, tmp_path):
    """As on a host whose PATH begins with /bin, a link to /usr/bin: from there it would not find its firmware."""
    (tmp_path / "bin").symlink_to("/usr/bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    assert qemu_jail(plan_machine(Tier.SOFTWARE)).readable[0] == Path("/usr/bin/qemu-system-x86_64")


def test_a_filter_answers_and_does_not_kill():
    """In a child, since filters stay for good."""
    personality = Call("personality", 0, 0x40000, 0x40000)
    results = call_filtered(refuse([Call("ptrace"), Call("unshare"), personality]))
    assert results["getpid"] == results["none"] == 0
    assert {results[name] for name in ("ptrace", "unshare", "masked")} == {errno.ENOSYS}


def test_what_no_filter_names_does_not_exist():
    names = [
        "getpid",
        "write",
        "exit_group",
        "close",
        "futex",
        "mmap",
        "munmap",
        "brk",
        "rt_sigaction",
        "rt_sigprocmask",
    ]
    results = call_filtered(allow_only([*map(Call, names), Call("personality", 0, 0)]))
    assert results["getpid"] == results["none"] == 0
    assert {results[name] for name in ("ptrace", "unshare", "masked")} == {errno.ENOSYS}


def call_filtered(program):
    """The errno of some calls under a filter."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        calls = {
            "ptrace": (SYS_PTRACE, 0, os.getpid()),
            "unshare": (SYS_UNSHARE, 0),
            "getpid": (SYS_GETPID,),
            "none": (SYS_PERSONALITY, 0),
            "masked": (SYS_PERSONALITY, 0x40000),
        }
        install(program)
        found = [libc.syscall(*call) < 0 and ctypes.get_errno() for call in calls.values()]
        os.write(write, json.dumps(dict(zip(calls, map(int, found), strict=True))).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)
