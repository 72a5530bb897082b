"""What of this host's set-up strengthens or weakens the walls around machines; read, and nothing is changed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.cgroup import find_base
from hyper_kernel.host.fact import Fact
from hyper_kernel.host.jail import Identity, find_remedy, plan_identity
from hyper_kernel.host.landlock import find_version

_PROBE_S = 10.0
#: The walls of a jail, around a program of the system.
_PROBE = (
    *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--ro-bind", "/usr", "/usr", "--proc", "/proc"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--", "/usr/bin/true"),
)


def collect_walls() -> list[Fact]:
    """What machines are kept in with, on this host."""
    return [_jail(), _landlock(), _cgroups()]


def collect_guidance(root: Path = Path("/")) -> list[Fact]:
    """Settings of the host that decide what guests may learn of each other; advice, so that none is an obstacle.

    :param root: where /proc and /sys are.
    """
    sys, proc = root / "sys", root / "proc"
    return [_ksm(sys), _swap(proc), _smt(sys), _nested(sys), _mitigations(sys)]


def _jail() -> Fact:
    why = "QEMU runs in it; without it nothing is started"
    try:
        identity = plan_identity(os.getuid(), os.getpid(), Path("/proc/self/uid_map").read_text(), [])
        words = _try(_PROBE, identity)
    except HostError as exc:
        return Fact(name="jail", found=str(exc), why=why, mend=exc.hint, ok=False)
    if words:
        return Fact(name="jail", found=words, why=why, mend=find_remedy(), ok=False)
    user = f"each has a user of its own, like {identity.uid}" if identity else "machines run as this user"
    return Fact(name="jail", found=f"bubblewrap makes it; {user}", why=why)


def _try(argv: Sequence[str], identity: Identity | None) -> str:
    """Run the probe; what went wrong, or empty."""
    who, groups = (identity.uid, ()) if identity else (None, None)
    try:
        done = subprocess.run(
            argv,
            user=who,
            group=who,
            extra_groups=groups,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return f"bubblewrap cannot be started: {exc}"
    return done.stderr.strip() or f"bubblewrap ended with {done.returncode}" if done.returncode else ""


def _landlock() -> Fact:
    why = "a shim, which reads what guests say, can change its own sandbox's files only"
    if version := find_version():
        return Fact(name="Landlock", found=f"version {version}", why=why)
    return Fact(name="Landlock", found="not there", why=why, mend="boot Linux 5.13 or later with lsm=landlock,...")


def _cgroups() -> Fact:
    why = "memory, processors and tasks of a machine are bounded as one"
    if base := find_base():
        return Fact(name="cgroups", found=f"machines get theirs in {base}", why=why)
    mend = "run hyperd where cgroups of version 2 are delegated (systemd: Delegate=yes); until then limits are weaker"
    return Fact(name="cgroups", found="none that this user may make", why=why, mend=mend)


def _ksm(sys: Path) -> Fact:
    why = "merged memory tells guests what others have in theirs"
    if _read(sys / "kernel/mm/ksm/run") in ("", "0"):
        return Fact(name="KSM", found="off", why=why)
    return Fact(name="KSM", found="on", why=why, mend="as root: echo 2 > /sys/kernel/mm/ksm/run")


def _swap(proc: Path) -> Fact:
    why = "what guests have in memory can end up on a disk"
    places = [line.split()[0] for line in _read(proc / "swaps").splitlines()[1:]]
    if not places:
        return Fact(name="swap", found="off", why=why)
    return Fact(name="swap", found=", ".join(places), why=why, mend="encrypt it, or as root: swapoff -a")


def _smt(sys: Path) -> Fact:
    why = "guests on two threads of one core can watch each other by its caches"
    if _read(sys / "devices/system/cpu/smt/active") != "1":
        return Fact(name="SMT", found="off", why=why)
    mend = "where guests distrust each other, as root: echo off > /sys/devices/system/cpu/smt/control"
    return Fact(name="SMT", found="on", why=why, mend=mend)


def _nested(sys: Path) -> Fact:
    why = "guests see no virtualisation, so the host needs none for guests of guests"
    on = [name for name in ("kvm_intel", "kvm_amd") if _read(sys / f"module/{name}/parameters/nested") in ("1", "Y")]
    if not on:
        return Fact(name="nested KVM", found="off", why=why)
    return Fact(name="nested KVM", found=f"on ({on[0]})", why=why, mend=f"options {on[0]} nested=0 in /etc/modprobe.d")


def _mitigations(sys: Path) -> Fact:
    why = "flaws of processors that let guests read memory that is not theirs"
    folder = sys / "devices/system/cpu/vulnerabilities"
    open_ones = sorted(path.name for path in folder.glob("*") if _read(path).startswith("Vulnerable"))
    if not open_ones:
        return Fact(name="mitigations", found="none is missing" if folder.is_dir() else "unknown", why=why)
    mend = "update microcode and kernel; boot without mitigations=off"
    return Fact(name="mitigations", found=f"missing for {', '.join(open_ones)}", why=why, mend=mend)


def _read(path: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
