"""The interface every hypervisor driver fills; QEMU (``qemu/``) is the first."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Tier(StrEnum):
    """How strong the isolation of a machine is."""

    #: KVM: the processor itself separates guest and host.
    HARDWARE = "hardware"
    #: Software emulation (TCG), which its authors do not call a security boundary.
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """One virtual machine. ``disks`` are read-only images, seen in this order by the guest."""

    name: str
    tier: Tier
    memory_mib: int
    cpus: int
    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """Where a machine's memory comes from.

    :ivar fd: a memfd of the machine's size. Without a state it is the memory, and stays when the machine has gone;
        with one it is only read, and what the machine writes is its own.
    :ivar state: the saved state that belongs to the memory; the machine starts there, paused, not at power-on.
    """

    fd: int
    state: Path | None = None


class Ended(StrEnum):
    """What ended a machine."""

    #: It was switched off, from inside.
    OFF = "powered off"
    #: It was reset from inside: by a guest that panicked, or by somebody there.
    RESET = "guest panic or reboot"
    #: Its guest told the hypervisor that it panicked.
    PANIC = "guest panic"
    #: The hypervisor itself ended.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """How a machine ended.

    :ivar words: the same for people, with the hypervisor's own words where it failed.
    :ivar signal: what ended the hypervisor, where that is known; else 0.
    """

    how: Ended
    words: str
    signal: int = 0

    def __str__(self) -> str:
        return self.words


class VsockDevice(Protocol):
    """What a driver needs to plug in a vsock device."""

    @property
    def driver(self) -> str:
        """``vhost-user-vsock-pci`` or ``vhost-vsock-pci``."""

    @property
    def fd(self) -> int:
        """The socket of the vhost-user backend, or the open ``/dev/vhost-vsock``."""

    @property
    def cid(self) -> int:
        """The guest's context id."""

    @property
    def let_go(self) -> Callable[[], None]:
        """To be called once the device is plugged: nobody but the hypervisor needs ``fd`` any more."""


class Machine(Protocol):
    """A running (or paused) virtual machine; ends with the context it was started in."""

    @property
    def pid(self) -> int:
        """The process that holds the guest's memory."""

    @property
    def command(self) -> str:
        """Its exact, copy-pasteable command line."""

    async def plug_vsock(self, device: VsockDevice) -> None:
        """Hot-plug the device. :raise HostError: the hypervisor refuses."""

    async def unplug_vsock(self) -> None:
        """Take the device away, waiting for the guest to let go. :raise HostError: it does not, or is refused."""

    async def save(self, state: Path) -> None:
        """Stop the machine and save its state without the memory, which stays in its :class:`Ram`.

        :raise HostError: the hypervisor refuses, or the disk does.
        """

    async def pause(self) -> None:
        """Stop the guest's processors. :raise HostError: the hypervisor refuses."""

    def move_console(self, folder: Path) -> None:
        """Keep the console's file in another folder from here on."""

    async def resume(self) -> None:
        """Let the guest's processors run. :raise HostError: the hypervisor refuses."""

    async def wait_exit(self) -> MachineEnd:
        """Wait until the machine has ended; say how."""

    def console_tail(self, lines: int = 30) -> str:
        """The last lines of the guest's console and of the hypervisor's own messages."""


class Hypervisor(Protocol):
    """Starts machines."""

    def build(self) -> str:
        """Which build of the hypervisor this is. :raise HostError: it is not installed."""

    def start(
        self, config: MachineConfig, folder: Path, ram: Ram | None = None
    ) -> AbstractAsyncContextManager[Machine]:
        """A machine that is loaded but does not run yet; leaving the context kills it and leaves nothing.

        :param config: what is wanted.
        :param folder: where ``console.log`` goes.
        :param ram: its memory; None: fresh memory of its own.
        :raise HostError: it does not start; the message holds its own words.
        """
