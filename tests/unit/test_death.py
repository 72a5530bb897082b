"""Which name fits an end, as a table; and what a guest that lies can make of it."""

import pytest

from hyper_kernel.hypervisor import Ended, MachineEnd
from hyper_kernel.sandbox.death import Cause, Death, ProgramEnd, name_machine_end, name_program_end
from hyper_kernel.spec import Limits, SandboxSpec
from hyper_kernel.wire import WireError

SPEC = SandboxSpec(memory_mib=512, limits=Limits(scratch_mib=64, processes=100))
PANIC = "[    7.1] Kernel panic - not syncing: {}\n[    7.2] CPU: 0 PID: 1 Comm: init\n"
KILLED = MachineEnd(Ended.LOST, "QEMU was killed by signal 9", 9)
RESET = MachineEnd(Ended.RESET, "guest panic or reboot")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"code": 0, "oom_kills": 3, "scratch_free": 0}, ""),
        ({"code": 1}, ""),
        ({"signal": 9}, ""),
        ({"signal": 9, "oom_kills": 1}, "out of memory: used all of its 512 MiB"),
        ({"code": 137, "oom_kills": 1, "scratch_free": 0}, "out of memory: used all of its 512 MiB"),
        ({"signal": 11, "oom_kills": 1, "scratch_free": 1 << 20}, ""),
        ({"code": 1, "scratch_free": 4096}, "disk full: wrote all of its 64 MiB"),
        ({"code": 1, "scratch_free": 1 << 20}, ""),
        ({"code": 2, "forks_refused": 5, "processes": 99}, "too many processes: started all of its 100"),
        ({"code": 2, "forks_refused": 5, "processes": 3}, ""),
        ({"code": 2, "forks_refused": 0, "processes": 99}, ""),
    ],
)
def test_ends_of_programs(said, reason):
    cause = name_program_end(ProgramEnd.read({"code": None, "signal": None, **said}), SPEC)
    assert cause.reason == reason
    assert cause.death == (Death(reason.partition(":")[0]) if reason else None)


def test_without_limits_the_disk_is_half_of_the_memory_and_processes_are_not_counted():
    spec = SandboxSpec(memory_mib=512)
    assert name_program_end(ProgramEnd(code=1, scratch_free=0), spec).reason == "disk full: wrote all of its 256 MiB"
    assert name_program_end(ProgramEnd(code=1, forks_refused=1, processes=9), spec) == Cause()


@pytest.mark.parametrize(
    ("end", "console", "host_oom", "reason"),
    [
        (RESET, PANIC.format("sysrq triggered crash"), False, "guest panic: sysrq triggered crash"),
        (RESET, PANIC.format("System is deadlocked on memory"), False, "out of memory: its 512 MiB are too few"),
        (RESET, PANIC.format("Out of memory: compulsory panic_on_oom is enabled"), False, "out of memory: its 512"),
        (MachineEnd(Ended.PANIC, "guest panic"), "", False, "guest panic: its console does not say why"),
        (RESET, "no such words", False, "guest panic or reboot"),
        (MachineEnd(Ended.OFF, "powered off"), PANIC.format("printed by a program"), False, "powered off"),
        (KILLED, PANIC.format("printed by a program"), False, "host lost: QEMU was killed by signal 9"),
        (KILLED, "", True, "out of memory: the host had none left for it"),
        (
            MachineEnd(Ended.LOST, "QEMU was killed by signal 15", 15),
            "",
            True,
            "host lost: QEMU was killed by signal 15",
        ),
        (
            MachineEnd(Ended.LOST, "QEMU failed (exit code 1): no"),
            "",
            False,
            "host lost: QEMU failed (exit code 1): no",
        ),
    ],
)
def test_ends_of_machines(end, console, host_oom, reason):
    cause = name_machine_end(end, console, 512, host_oom=host_oom)
    assert cause.reason.startswith(reason)
    assert cause.death == (Death(reason.partition(":")[0]) if ":" in reason else None)


def test_a_panic_says_a_few_plain_characters_at_most():
    """SECURITY: the console is the guest's; a reason is shown in dialogs and notebooks."""
    console = PANIC.format("<script>alert(1)</script>") + PANIC.format("boo\x1b[31m" + "x" * 5000)
    assert name_machine_end(RESET, console, 512, host_oom=False).reason == "guest panic: boo"
    long = name_machine_end(RESET, PANIC.format("x" * 5000), 512, host_oom=False).reason
    assert len(long) < 150


@pytest.mark.parametrize(
    "said", [{}, {"code": 256}, {"code": True}, {"code": "1"}, {"code": -1}, {"signal": 0}, {"signal": 99}]
)
def test_an_end_without_a_code_is_none(said):
    with pytest.raises(WireError, match="no exit code"):
        ProgramEnd.read(said)


@pytest.mark.parametrize("lie", ["1", -1, 1 << 70, True, None, [], {}, 1.5])
def test_a_guest_that_says_nonsense_is_taken_to_have_said_nothing(lie):
    """SECURITY: what a guest says is a number within bounds, or is not heard."""
    names = ("oom_kills", "forks_refused", "processes", "scratch_free")
    assert ProgramEnd.read({"code": 1, **dict.fromkeys(names, lie)}) == ProgramEnd(code=1)
