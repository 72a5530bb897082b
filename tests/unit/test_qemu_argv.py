"""QEMU's command line against a golden file: a change of it is a change that somebody must see."""

import dataclasses
from pathlib import Path

import pytest

from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.qemu.argv import Inherited, argv

GOLDEN = Path(__file__).parent / "golden"
CONFIG = MachineConfig(
    name="hyper-0123456789ab",
    tier=Tier.SOFTWARE,
    memory_mib=512,
    cpus=2,
    kernel=Path("/data/vmlinux"),
    initrd=Path("/data/initrd"),
    cmdline="console=ttyS0 panic=-1",
    disks=(Path("/data/system.erofs"), Path("/data/a,b.erofs")),
)
FDS = Inherited(qmp=10, console=11, memory=12, kernel=13, initrd=14, disks=(15, 16))
CLONE = dataclasses.replace(FDS, kernel=None, initrd=None)


def lines(words: list[str]) -> str:
    """One option a line, so that a difference can be read."""
    return " ".join(words).replace(" -", "\n-") + "\n"


@pytest.mark.parametrize("tier", Tier)
def test_argv_is_the_golden_one(tier):
    found = lines(argv(dataclasses.replace(CONFIG, tier=tier), FDS))
    assert found == (GOLDEN / f"qemu-{tier}.txt").read_text()


def test_a_clone_takes_a_state_and_no_kernel():
    words = argv(CONFIG, CLONE)
    assert words[words.index("-incoming") + 1] == "defer"
    assert "share=off" in words[words.index("-object") + 1]
    assert not {"-kernel", "-initrd", "-append"} & set(words)
    assert CLONE.numbers == (10, 11, 12, 15, 16)


@pytest.mark.parametrize("fds", [FDS, CLONE], ids=["boot", "clone"])
def test_no_path_of_the_host_is_on_the_command_line(fds):
    """Neither a user's name nor a folder: whoever breaks into QEMU reads its arguments."""
    paths = [word for word in argv(CONFIG, fds) if "/" in word]
    assert all("/proc/self/fd/" in word or "/dev/fdset/" in word for word in paths), paths
    assert "data" not in " ".join(paths)


def test_the_guest_gets_no_network_no_usb_and_qemu_may_start_nothing():
    words = argv(CONFIG, FDS)
    assert "-nodefaults" in words
    assert not {"-netdev", "-nic", "-usb", "-vga"} & set(words)
    assert "spawn=deny" in words[words.index("-sandbox") + 1]


def test_disks_are_read_only():
    words = argv(CONFIG, FDS)
    disks = [words[i + 1] for i, word in enumerate(words) if word == "-blockdev"]
    assert len(disks) == 2
    assert all("read-only=on" in disk for disk in disks)
