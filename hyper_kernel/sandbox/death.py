"""What ends a sandbox before its time: the names, and which of them fits what was seen. Pure.

SECURITY: what a guest says only chooses among the names. In a reason stand our words and numbers, and of a panic a few
plain characters.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from hyper_kernel.hypervisor import Ended, MachineEnd
from hyper_kernel.spec import SandboxSpec
from hyper_kernel.wire import WireError

_SIGKILL = 9
_KILLED = 128 + _SIGKILL
#: A disk with less free is full, in bytes: what failed to be written was longer than nothing.
_FULL = 64 << 10
#: What a guest says is a number up to here, or it is none.
_MAX_NUMBER = 1 << 62
_PANIC = re.compile(r"Kernel panic - not syncing: ([\w ,.:-]{1,100})", re.ASCII)
_NO_MEMORY = ("Out of memory", "System is deadlocked on memory", "out of memory")


class Death(StrEnum):
    """Why a sandbox ended though nobody meant it to, or by whose will. A reason for people begins with the name."""

    #: The guest's kernel, or the host's, had no more memory to give and killed.
    OUT_OF_MEMORY = "out of memory"
    #: The sandbox lived as long as it may.
    WALL_LIMIT = "wall limit"
    #: A cell ran longer than it may and did not heed an interrupt.
    CELL_LIMIT = "cell limit"
    #: The kernel or program ended while its disk was full.
    DISK_FULL = "disk full"
    #: A cell went on to show more than it may, and did not heed an interrupt.
    OUTPUT_LIMIT = "output limit"
    #: The kernel or program ended while no further process could be started.
    TOO_MANY_PROCESSES = "too many processes"
    #: The user has had as much processor time as policy gives.
    CPU_LIMIT = "cpu limit"
    #: The guest's own kernel gave up.
    GUEST_PANIC = "guest panic"
    #: Somebody ended it by force.
    KILLED = "killed"
    #: The process it belonged to is gone.
    OWNER_GONE = "owner gone"
    #: What held it on the host (its shim, its QEMU) was lost.
    HOST_LOST = "host lost"
    #: The guest broke the rules of vsock or of the channels.
    VIOLATION = "firewall violation"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a sandbox, or the kernel in it, ended: a name, empty after an end that has none, and a reason for people."""

    death: Death | None = None
    reason: str = ""


def named(death: Death, details: str) -> Cause:
    """A cause with a name; its reason begins with it."""
    return Cause(death, f"{death}: {details}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEnd:
    """How a program or a kernel ended, as its guest says; see END in ``wire``.

    ``code`` is as a shell counts it: 128 + signal where a signal ended it. ``scratch_free`` is None where the guest
    does not say it.
    """

    code: int
    oom_kills: int = 0
    forks_refused: int = 0
    processes: int = 0
    scratch_free: int | None = None

    @classmethod
    def read(cls, said: dict[str, Any]) -> Self:
        """What a guest said, as far as it makes sense.

        :raise WireError: there is no exit code in it.
        """
        code, signal = _number(said.get("code")), _number(said.get("signal"))
        if code is None or code > 255:
            if signal is None or not 0 < signal < 65:
                raise WireError(f"no exit code in {str(said)[:100]}")
            code = 128 + signal
        return cls(
            code=code,
            oom_kills=_number(said.get("oom_kills")) or 0,
            forks_refused=_number(said.get("forks_refused")) or 0,
            processes=_number(said.get("processes")) or 0,
            scratch_free=_number(said.get("scratch_free")),
        )


def name_program_end(end: ProgramEnd, spec: SandboxSpec) -> Cause:
    """Why the program or the kernel of a sandbox ended; without a name where it just did."""
    if end.code == 0:
        return Cause()
    if end.code == _KILLED and end.oom_kills:
        return named(Death.OUT_OF_MEMORY, f"used all of its {spec.memory_mib} MiB")
    if end.scratch_free is not None and end.scratch_free < _FULL:
        return named(Death.DISK_FULL, f"wrote all of its {scratch_mib(spec)} MiB")
    limit = spec.limits.processes
    # The refusal may be long past: most of them must live still.
    if limit and end.forks_refused and end.processes > limit // 2:
        return named(Death.TOO_MANY_PROCESSES, f"started all of its {limit}")
    return Cause()


def name_machine_end(end: MachineEnd, console: str, memory_mib: int, *, host_oom: bool) -> Cause:
    """Why a machine ended that nobody had told to.

    :param console: the end of what its guest printed.
    :param host_oom: whether the host's kernel has killed for want of memory since the machine started.
    """
    panic = _PANIC.search(console)
    if end.how is Ended.PANIC or (end.how is Ended.RESET and panic):
        words = panic[1].strip() if panic else "its console does not say why"
        if any(each in words for each in _NO_MEMORY):
            return named(Death.OUT_OF_MEMORY, f"its {memory_mib} MiB are too few for the guest's own kernel")
        return named(Death.GUEST_PANIC, words)
    if end.how is Ended.LOST:
        if end.signal == _SIGKILL and host_oom:
            return named(Death.OUT_OF_MEMORY, "the host had none left for it")
        return named(Death.HOST_LOST, end.words)
    return Cause(None, end.words)


def scratch_mib(spec: SandboxSpec) -> int:
    """What a sandbox may write: what its limits say, else half of the memory, as tmpfs does by itself."""
    return spec.limits.scratch_mib or spec.memory_mib // 2


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER:
        return value
    return None
