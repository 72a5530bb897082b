"""From what is wanted to what is started."""

from dataclasses import dataclass
from typing import Any

from hyper_kernel.errors import RequestError
from hyper_kernel.hypervisor import MachineConfig
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.paths import Paths
from hyper_kernel.qemu.accel import Verdict, probe_tier
from hyper_kernel.rootfs.guest import GuestFiles, get_guest
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import ProcessSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A machine, and what its agent is told: ``image`` for resync, ``program`` for the main exec stream."""

    machine: MachineConfig
    hostname: str
    scratch_mib: int
    image: dict[str, Any]
    program: dict[str, Any]


async def plan_machine(paths: Paths, record: Record) -> Plan:
    """Find everything a sandbox needs.

    :raise HostError: the guest's files or the image's disk are missing; says what to run.
    :raise NotFoundError: there is no such image.
    :raise RequestError: nothing says what to run.
    """
    image, spec = ImageStore(paths.images).get(record.image_id), record.spec
    return Plan(
        machine=await plan_boot(paths, image, memory_mib=spec.memory_mib, cpus=spec.cpus, name=record.id[:12]),
        hostname=spec.hostname or record.id[:12],
        # Half of the memory, as tmpfs does by itself: the rest is the program's.
        scratch_mib=spec.memory_mib // 2,
        image={"env": list(image.config.env), "user": image.config.user, "cwd": image.config.cwd},
        program={} if spec.kernel else plan_program(spec.process, image.config),
    )


async def plan_boot(paths: Paths, image: Image, *, memory_mib: int, cpus: int, name: str) -> MachineConfig:
    """The machine for an image.

    :raise HostError: the guest's files or the image's disk are missing; says what to run.
    """
    guest = get_guest(paths)
    verdict = await find_tier(paths, guest)
    return MachineConfig(
        name=f"hyper-{name}",
        tier=verdict.tier,
        memory_mib=memory_mib,
        cpus=cpus,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        disks=(guest.system, ImageStore(paths.images).get_disk(image)),
    )


async def find_tier(paths: Paths, guest: GuestFiles) -> Verdict:
    """How strongly this host isolates: as remembered, or found now by booting a guest, which takes seconds.

    :raise HostError: QEMU is not installed.
    """
    return await probe_tier(paths.tier, guest.kernel, guest.initrd, guest.cmdline)


def plan_program(process: ProcessSpec, image: ImageConfig) -> dict[str, Any]:
    """The arguments of an exec stream for a sandbox's main program: the image's where nothing else is asked.

    :raise RequestError: neither says what to run.
    """
    argv = process.argv or (*image.entrypoint, *image.cmd)
    if not argv:
        raise RequestError("nothing to run: the image names no command", hint="give one after the image's name")
    env = dict(entry.partition("=")[::2] for entry in (*image.env, *process.env))
    return {
        "argv": list(argv),
        "env": env,
        "cwd": process.cwd or image.cwd,
        "user": process.user or image.user,
        "tty": process.tty,
        "rows": 24,
        "cols": 80,
    }
