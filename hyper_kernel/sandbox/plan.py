"""From what is wanted to what is started."""

from dataclasses import dataclass
from typing import Any

from hyper_kernel.errors import DeniedError, RequestError
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.paths import Paths
from hyper_kernel.qemu.accel import Verdict, probe_tier
from hyper_kernel.rootfs.guest import GuestFiles, get_guest
from hyper_kernel.rootfs.image import check_kernel
from hyper_kernel.sandbox.death import scratch_mib
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import KernelSpec, ProcessSpec

#: Variables that a Python reads when it starts, and not again.
_START_ENV = ("PYTHON", "IPYTHON", "LD_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A machine, and what its agent is told: ``image`` for resync, ``program`` for the main exec stream.

    ``kernel`` is the image's kernelspec to run in place of a program; ``ready_kernel`` is the same where a kernel of
    it that runs already will do, else None.
    """

    machine: MachineConfig
    hostname: str
    scratch_mib: int
    image: dict[str, Any]
    program: dict[str, Any]
    kernel: str = ""
    ready_kernel: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What machines have in common that can stand in for one another.

    ``kernel`` is the kernelspec of the image whose kernel runs in them already; None: none does.
    """

    image_id: str
    memory_mib: int
    cpus: int
    kernel: str | None = None


def plan_shape(store: ImageStore, record: Record) -> Shape:
    """The shape of a recorded sandbox.

    :raise NotFoundError: there is no such image, or it has no such kernel.
    """
    image, spec = store.get(record.image_id), record.spec
    kernel = plan_ready_kernel(store, image, spec.kernel) if spec.kernel else None
    return Shape(image_id=image.id, memory_mib=spec.memory_mib, cpus=spec.cpus, kernel=kernel)


async def plan_machine(paths: Paths, record: Record) -> Plan:
    """Find everything a sandbox needs.

    :raise HostError: the guest's files or the image's disk are missing; says what to run.
    :raise NotFoundError: there is no such image.
    :raise RequestError: nothing says what to run.
    :raise DeniedError: this host isolates more weakly than is wanted.
    """
    store, spec = ImageStore(paths.images), record.spec
    image = store.get(record.image_id)
    machine = await plan_boot(paths, image, memory_mib=spec.memory_mib, cpus=spec.cpus, name=record.id[:12])
    # SECURITY: whatever is remembered or believed of this host, the machine that is about to start decides.
    if spec.isolation == Tier.HARDWARE and machine.tier is not Tier.HARDWARE:
        raise DeniedError(
            "this host isolates by software only, and hardware is required", hint="see: hyper policy, hyper doctor"
        )
    return Plan(
        machine=machine,
        hostname=spec.hostname or record.id[:12],
        scratch_mib=scratch_mib(spec),
        image=plan_image(image.config),
        program={} if spec.kernel else plan_program(spec.process, image.config),
        kernel=check_kernel(store, image, spec.kernel.name) if spec.kernel else "",
        ready_kernel=plan_ready_kernel(store, image, spec.kernel) if spec.kernel else None,
    )


def plan_shapes(store: ImageStore, image: Image, *, memory_mib: int, cpus: int) -> list[Shape]:
    """The shapes that are of use for an image: for programs, and with its first kernel if that can be cloned."""
    ready = plan_ready_kernel(store, image, KernelSpec()) if store.get_kernels(image) else None
    kernels = (None,) if ready is None else (None, ready)
    return [Shape(image_id=image.id, memory_mib=memory_mib, cpus=cpus, kernel=kernel) for kernel in kernels]


def plan_image(image: ImageConfig) -> dict[str, Any]:
    """The image's part of resync."""
    return {"env": list(image.env), "user": image.user, "cwd": image.cwd}


def plan_ready_kernel(store: ImageStore, image: Image, spec: KernelSpec) -> str | None:
    """The image's kernelspec for ``spec``, if a kernel of it that was started without knowing of that will do.

    It must be able to take an identity (see ``sandbox.kernel``), and nothing may be wanted that only a start can give.

    :raise NotFoundError: the image has no such kernel.
    """
    name = check_kernel(store, image, spec.name)
    kernelspec = store.get_kernels(image)[name]
    can_take = kernelspec.get("language") == "python" and "ipykernel_launcher" in kernelspec.get("argv", ())
    needs_start = spec.arguments or any(entry.startswith(_START_ENV) for entry in spec.env)
    return name if can_take and not needs_start else None


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
