"""Trouble at the start of a machine: each gives one clear error and leaves nothing behind."""

import asyncio
import dataclasses
import os
import time

import pytest

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.errors import GuestError, HostError, HyperError, RequestError
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.limits import MIN_MEMORY_MIB
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox import source as source_module
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.spec import KernelSpec, ProcessSpec, SandboxSpec
from hyper_kernel.vsock.probe import open_end
from tests.fakes.open_files import assert_no_more_open, count_open


@pytest.fixture
def config(shared_data):
    guest = get_guest(find_paths())
    return MachineConfig(
        name="hyper-trouble",
        tier=Tier.SOFTWARE,
        memory_mib=256,
        cpus=1,
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        disks=(),
    )


def start(config, folder):
    """Try to start a machine; what is left of descriptors and children is checked."""

    async def attempt():
        async with ColdSource(Qemu(), open_end).start(config, folder, lambda event: None):
            raise AssertionError("it started")

    before = count_open()
    try:
        asyncio.run(attempt())
    finally:
        assert_no_more_open(before)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_a_host_without_qemu(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="qemu-system-x86_64 is not installed") as caught:
        start(config, tmp_path)
    assert "hyper doctor" in caught.value.hint


def test_a_qemu_that_dies_at_its_start_is_quoted(config, tmp_path):
    with pytest.raises(HostError, match=r"ended with 1: .*Invalid SMP CPUs 1000"):
        start(dataclasses.replace(config, cpus=1000), tmp_path)


def test_a_kernel_file_that_is_damaged_is_quoted(config, tmp_path):
    broken = tmp_path / "vmlinuz"
    broken.write_bytes(b"not a kernel")
    damaged = MachineConfig(**{field: getattr(config, field) for field in config.__slots__} | {"kernel": broken})
    with pytest.raises(HostError, match="QEMU ended with 1"):
        start(damaged, tmp_path)


def test_a_guest_that_panics_is_named_with_its_console(config, tmp_path):
    words = {"cmdline": "console=ttyS0 panic=-1 quiet rdinit=/no-such-program"}
    panicking = MachineConfig(**{field: getattr(config, field) for field in config.__slots__} | words)
    with pytest.raises(HostError, match=r"(?s)ended while booting: guest panic.*Kernel panic"):
        start(panicking, tmp_path)


def test_a_guest_that_never_answers_is_given_up(config, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "BOOT_DEADLINE_S", 6.0)
    hanging = MachineConfig(
        **{field: getattr(config, field) for field in config.__slots__} | {"cmdline": "console=ttyS0 panic=0 quiet"}
    )
    started = time.monotonic()
    with pytest.raises(GuestError, match=r"(?s)did not get ready.*console"):
        start(hanging, tmp_path)
    assert time.monotonic() - started < 30


def test_a_memory_size_below_what_boots_names_the_limit(home):
    with pytest.raises(RequestError, match=f"{MIN_MEMORY_MIB} to"):
        SandboxSpec(memory_mib=MIN_MEMORY_MIB - 1)


def test_the_smallest_memory_boots(client):
    record = client.create(SandboxSpec(memory_mib=MIN_MEMORY_MIB, process=ProcessSpec(argv=("true",))))
    client.start(record.id)
    assert client.wait(record.id) == 0


def test_an_image_that_is_not_here_names_those_that_are(client):
    with pytest.raises(HyperError, match="no image nosuch"):
        client.create(SandboxSpec(image="nosuch"))


def test_a_kernel_that_the_image_lacks_is_named_and_nothing_is_left(client):
    with pytest.raises(HyperError, match="xeus-fortran"):
        client.start_kernel(SandboxSpec(kernel=KernelSpec(name="xeus-fortran", files="none")))
    assert client.sandboxes(everything=True) == []


def test_a_folder_that_is_not_there_is_named_and_nothing_is_left(client):
    with pytest.raises(HyperError, match="cannot read the notebook's folder /nowhere"):
        client.start_kernel(SandboxSpec(kernel=KernelSpec(folder="/nowhere")))
    assert client.sandboxes(everything=True) == []


def test_a_program_that_the_image_lacks_is_named(client):
    record = client.create(SandboxSpec(process=ProcessSpec(argv=("no-such-program",))))
    with pytest.raises(HyperError, match="no-such-program"):
        client.start(record.id)
    assert client.sandbox(record.id).exit_code == 127


def test_hyperd_without_the_guest_files_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPER_HOME", str(tmp_path / "empty"))
    client = Client()
    try:
        with pytest.raises(HyperError) as caught:
            client.start_kernel(SandboxSpec(kernel=KernelSpec(files="none")))
        assert "hyper setup" in str(caught.value) + caught.value.hint
    finally:
        stop_daemon(find_paths())
