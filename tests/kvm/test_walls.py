"""The jail with KVM in it, and cgroups, which this machine's root may make."""

import asyncio
import os
from pathlib import Path

import pytest

from hyper_kernel.host.cgroup import MOUNT, find_base
from hyper_kernel.host.share import hold_cpu
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.qemu.jail import qemu_jail
from hyper_kernel.qemu.selftest import plan_machine, try_jail
from hyper_kernel.rootfs.guest import get_guest

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="there is no /dev/kvm")


def test_nothing_gets_out_of_the_jail_that_has_kvm():
    jail = qemu_jail(plan_machine(Tier.HARDWARE))
    attempts = asyncio.run(try_jail(find_paths(), jail))
    assert [attempt for attempt in attempts if not attempt.ok] == []


@pytest.mark.skipif(find_base() is None, reason="no cgroups are delegated here")
def test_a_machine_is_bounded_by_a_cgroup_of_its_own(tmp_path):
    guest = get_guest(find_paths())
    config = MachineConfig(
        name="hyper-walls",
        tier=Tier.HARDWARE,
        memory_mib=256,
        cpus=1,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        disks=(guest.system,),
    )

    async def work():
        async with asyncio.timeout(60), Qemu().start(config, tmp_path) as machine:
            name = Path(f"/proc/{machine.pid}/cgroup").read_text().strip().removeprefix("0::/")
            folder = MOUNT / name
            assert folder.name == f"hyper-{machine.pid}"
            assert (folder / "memory.max").read_text().strip() == str(512 << 20)
            assert (folder / "pids.max").read_text().strip() == "97"
            async with hold_cpu(machine.pid, 25):
                assert (folder / "cpu.max").read_text() == "25000 100000\n"
            assert (folder / "cpu.max").read_text() == "max 100000\n"
        assert not folder.exists()

    asyncio.run(work())
