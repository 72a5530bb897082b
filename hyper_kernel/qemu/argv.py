"""QEMU's command line, as data."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.hypervisor import MachineConfig, Tier

BINARY = "qemu-system-x86_64"
#: Tells versions of this file apart: a saved machine goes on only in one with the same processor and devices.
RECIPE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]

_MACHINE = "pc,memory-backend=ram0,usb=off,vmport=off,hpet=off"
_CPU = {
    # The whole of what TCG emulates: the best instructions for numpy's kernels.
    Tier.SOFTWARE: "max",
    # SECURITY: no nested virtualisation, so the guest never reaches the host's nested paging code.
    Tier.HARDWARE: "host,-svm,-vmx",
}
_ACCEL = {Tier.SOFTWARE: "tcg,thread=multi", Tier.HARDWARE: "kvm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Descriptors QEMU inherits: no path, so no race, nothing to clean up, and nothing of the host to be seen.

    ``kernel`` and ``initrd`` are None where a saved state is taken; ``disks`` are open for reading.
    """

    qmp: int
    console: int
    memory: int
    kernel: int | None
    initrd: int | None
    disks: tuple[int, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of them."""
        named = (self.qmp, self.console, self.memory, self.kernel, self.initrd, *self.disks)
        return tuple(number for number in named if number is not None)


def argv(config: MachineConfig, fds: Inherited, binary: str = BINARY) -> list[str]:
    """The command line of a machine that starts paused.

    Without a kernel it takes a saved state and the memory that belongs to it, of which it changes only a copy.

    :param binary: where QEMU is.
    """
    return [word for option in _options(config, fds, binary) for word in option]


def _options(config: MachineConfig, fds: Inherited, binary: str) -> Iterator[tuple[str, ...]]:
    restored = fds.kernel is None
    yield (binary,)
    yield "-name", config.name
    yield "-machine", _MACHINE
    yield "-accel", _ACCEL[config.tier]
    yield "-cpu", _CPU[config.tier]
    yield "-smp", str(config.cpus)
    yield "-m", f"size={config.memory_mib}M"
    # A file, not memory-backend-memfd: x-ignore-shared leaves those out since QEMU 8.1.
    yield (
        "-object",
        f"memory-backend-file,id=ram0,size={config.memory_mib}M,mem-path=/proc/self/fd/{fds.memory},"
        f"share={'off' if restored else 'on'}",
    )
    yield ("-nodefaults",)
    yield ("-no-user-config",)
    yield "-display", "none"
    # A guest that panics reboots (panic=-1): then QEMU ends, and says so by its SHUTDOWN event.
    yield ("-no-reboot",)
    # SECURITY: QEMU may not start programs, change its user or its resource limits.
    yield "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    yield "-chardev", f"socket,id=qmp,fd={fds.qmp}"
    yield "-mon", "chardev=qmp,mode=control"
    yield "-chardev", f"socket,id=console,fd={fds.console}"
    yield "-serial", "chardev:console"
    for number, disk in enumerate(fds.disks):
        node = f"disk{number}"
        # A set of descriptors is used as it is; /proc/self/fd would open the file anew, which QEMU's user may not.
        yield "-add-fd", f"fd={disk},set={number}"
        # Locks would make machines that share a read-only image wait for nothing.
        yield (
            "-blockdev",
            f"driver=raw,node-name={node},read-only=on,"
            f"file.driver=file,file.filename=/dev/fdset/{number},file.locking=off",
        )
        yield "-device", f"virtio-blk-pci,drive={node},addr={number + 4:#x}"
    yield "-device", "vmgenid,guid=auto"
    if restored:
        # No kernel: the memory holds it, and leaving it out saves QEMU's copy of the file.
        yield "-incoming", "defer"
    else:
        yield "-kernel", f"/proc/self/fd/{fds.kernel}"
        yield "-initrd", f"/proc/self/fd/{fds.initrd}"
        yield "-append", config.cmdline
    yield ("-S",)
