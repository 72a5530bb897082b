"""Which tier this host gives: found by really booting, with a deadline, and remembered.

``/dev/kvm`` that opens is no proof: on some nested, para-virtual hosts it answers ``KVM_GET_API_VERSION`` with 12 and
then hangs on every stock guest. So a guest without a disk and without a process 1 is booted: its kernel runs, finds no
root and panics.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.jail import JailError, can_open
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.limits import MIN_MEMORY_MIB
from hyper_kernel.qemu.argv import BINARY
from hyper_kernel.qemu.driver import Qemu

log = logging.getLogger(__name__)

#: A stock kernel reaches its panic in under 2 s with working KVM; ten is generous on a busy host.
_DEADLINE_S = 10.0
_KVM = Path("/dev/kvm")
_KVM_GET_API_VERSION = 0xAE00  # <linux/kvm.h>
_KVM_API = 12
#: Without it the initial RAM disk would wait for its disk for ever.
_NO_INIT = "rdinit=/none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The tier of this host and why; ``key`` says what it was found with."""

    tier: Tier
    reason: str
    key: str


async def probe_tier(cache: Path, kernel: Path, initrd: Path, cmdline: str) -> Verdict:
    """The verdict of this host, from the cache or by booting once.

    :param cache: the file that remembers; made anew when the host's kernel, QEMU or the guest kernel change.
    :raise HostError: QEMU is not installed, or this host cannot make its jail.
    """
    if known := recall_tier(cache, kernel):
        return known
    key = _key(kernel)
    with hold_lock(cache.with_suffix(".lock")):
        if known := recall_tier(cache, kernel):  # another process has found it meanwhile
            return known
        reason = _find_obstacle() or await _boot(kernel, initrd, cmdline)
        tier = Tier.SOFTWARE if reason else Tier.HARDWARE
        verdict = Verdict(tier=tier, reason=reason or "KVM booted a guest", key=key)
        cache.write_text(json.dumps(asdict(verdict)))
    log.info("tier %s: %s", verdict.tier, verdict.reason)
    return verdict


def recall_tier(cache: Path, kernel: Path) -> Verdict | None:
    """The verdict of this host where it is known; boots nothing and waits for nobody.

    :raise HostError: QEMU is not installed.
    """
    known = _load(cache)
    return known if known and known.key == _key(kernel) else None


def _load(cache: Path) -> Verdict | None:
    try:
        data = json.loads(cache.read_text())
        return Verdict(tier=Tier(data["tier"]), reason=str(data["reason"]), key=str(data["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find_obstacle() -> str:
    """Why KVM cannot even be tried; empty where it can."""
    try:
        device = os.open(_KVM, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return "there is no /dev/kvm"
    except OSError as exc:
        return f"/dev/kvm does not open: {exc.strerror}; add yourself to the group kvm"
    if os.getuid() == 0 and not can_open(os.fstat(device)):
        os.close(device)
        return "/dev/kvm is root's alone, and machines do not run as root: chgrp kvm /dev/kvm; chmod 660 /dev/kvm"
    try:
        version = fcntl.ioctl(device, _KVM_GET_API_VERSION)
    except OSError as exc:
        return f"/dev/kvm does not answer: {exc.strerror}"
    finally:
        os.close(device)
    return "" if version == _KVM_API else f"/dev/kvm speaks version {version}, not {_KVM_API}"


async def _boot(kernel: Path, initrd: Path, cmdline: str) -> str:
    """Boot a guest with KVM; why it failed, or empty."""
    config = MachineConfig(
        name="hyper-probe",
        tier=Tier.HARDWARE,
        memory_mib=MIN_MEMORY_MIB,
        cpus=1,
        kernel=kernel,
        initrd=initrd,
        cmdline=f"{cmdline} {_NO_INIT}",
        disks=(),
    )
    with tempfile.TemporaryDirectory(prefix="hyper-probe-") as folder:
        try:
            async with Qemu().start(config, Path(folder)) as machine, asyncio.timeout(_DEADLINE_S):
                await machine.resume()
                how = await machine.wait_exit()
                booted = "Kernel panic" in machine.console_tail(200)
                return "" if booted else f"a guest did not boot with KVM: {how}"
        except JailError:  # says nothing about KVM, and nothing can be started without it
            raise
        except TimeoutError:
            return f"/dev/kvm opens, but a guest hangs: it did not boot within {_DEADLINE_S:g} s"
        except HostError as exc:
            return f"QEMU does not start with KVM: {exc}"


def _key(kernel: Path) -> str:
    binary = shutil.which(BINARY)
    if binary is None:
        raise HostError(f"{BINARY} is not installed", hint="run: hyper doctor")
    stat, guest = Path(binary).stat(), kernel.stat()
    facts = [platform.release(), binary, stat.st_mtime_ns, stat.st_size, guest.st_size]
    facts += [_KVM.exists() and (_KVM.stat().st_mode, _KVM.stat().st_gid), os.access(_KVM, os.R_OK | os.W_OK)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
