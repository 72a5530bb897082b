"""What this machine has of what sandboxes need, with reasons and remedies; `hyper doctor` prints it."""

import json
import os
import platform
import shutil
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.fact import Fact
from hyper_kernel.host.guidance import collect_guidance, collect_walls
from hyper_kernel.host.jail import can_open
from hyper_kernel.host.packages import find_missing
from hyper_kernel.paths import Paths

KVM = Path("/dev/kvm")
_MIN_SPACE = 2 << 30


def collect_facts(paths: Paths) -> list[Fact]:
    """All facts, in the order in which they are needed; starts no machine and changes nothing."""
    machines = [_kvm(), _vsock(), _tier(paths), _guest(paths), _images(paths), _space(paths)]
    return [_packages(), *collect_walls(), *machines, *collect_guidance()]


def _packages() -> Fact:
    why = "QEMU, the jail, and the tools that make images"
    try:
        missing = find_missing()
    except HostError as exc:
        return Fact(name="packages", found=str(exc), why=why, mend=exc.hint, ok=False)
    if missing:
        mend = f"as root: apt-get install --no-install-recommends {' '.join(missing)}"
        return Fact(name="packages", found=f"missing: {', '.join(missing)}", why=why, mend=mend, ok=False)
    return Fact(name="packages", found=f"all installed; Linux {platform.release()}", why=why)


def _kvm() -> Fact:
    why = "the processor separates guest and host, and guests run at full speed"
    if KVM.exists() and os.getuid() == 0 and not can_open(KVM.stat()):
        mend = f"give it to a group, as root: chgrp kvm {KVM}; chmod 660 {KVM}"
        return Fact(name="KVM", found=f"{KVM} is root's alone, and machines do not run as root", why=why, mend=mend)
    return _device("KVM", KVM, why, "without it machines are emulated: slower, and a weaker boundary")


def _vsock() -> Fact:
    why = "faster traffic between guest and host"
    return _device(
        "vhost-vsock", Path("/dev/vhost-vsock"), why, "without it the shim itself is the device: nothing to do"
    )


def _device(name: str, path: Path, why: str, mend: str) -> Fact:
    """A device that helps and that sandboxes can do without."""
    if not path.exists():
        return Fact(name=name, found=f"there is no {path}", why=why, mend=mend)
    if not os.access(path, os.R_OK | os.W_OK):
        return Fact(name=name, found=f"{path} does not open", why=why, mend=f"as root: usermod -aG kvm {_user()}")
    return Fact(name=name, found=f"{path} opens", why=why)


def _tier(paths: Paths) -> Fact:
    why = "how strong the isolation is"
    try:
        data = json.loads(paths.tier.read_text())
        return Fact(name="isolation", found=f"{data['tier']}: {data['reason']}", why=why)
    except (OSError, ValueError, KeyError, TypeError):
        return Fact(name="isolation", found="not tried yet", why=why, mend="the first start of a sandbox tries it")


def _guest(paths: Paths) -> Fact:
    current, why = paths.guest / "current", "the kernel and system that every machine boots"
    if current.exists():
        return Fact(name="guest", found=str(current.resolve()), why=why)
    return Fact(name="guest", found="not built", why=why, mend="run: hyper setup", ok=False)


def _images(paths: Paths) -> Fact:
    why = "what programs and kernels start from"
    try:
        names = sorted(json.loads((paths.images / "names.json").read_text()))
    except (OSError, ValueError):
        names = []
    if names:
        return Fact(name="images", found=", ".join(names), why=why)
    return Fact(name="images", found="none", why=why, mend="run: hyper setup", ok=False)


def _space(paths: Paths) -> Fact:
    folder = next(parent for parent in (paths.data, *paths.data.parents) if parent.exists())
    free, why = shutil.disk_usage(folder).free, f"images and records in {paths.data}"
    found = f"{free / 1e9:.1f} GB free"
    if free < _MIN_SPACE:
        return Fact(name="disk", found=found, why=why, mend="free some space", ok=False)
    return Fact(name="disk", found=found, why=why)


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
