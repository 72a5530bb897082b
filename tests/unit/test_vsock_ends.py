"""What stands around the user end: guest memory, the vhost-user channel, dialling again, the kernel end's refusals."""

import asyncio
import ctypes
import os
import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper_kernel.errors import GuestError, HostError, LostError
from hyper_kernel.vsock import kernel, probe
from hyper_kernel.vsock.end import RefusedError, ViolationError, dial_until_up
from hyper_kernel.vsock.kernel import KernelEnd
from hyper_kernel.vsock.memory import ProcessMemory, Region
from hyper_kernel.vsock.user import UserEnd
from hyper_kernel.vsock.vhost_user import Backend, Channel, VhostUserError


def own_memory(size=4096):
    block = (ctypes.c_char * size)()
    memory = ProcessMemory(os.getpid())
    memory.open()
    memory.set_regions([Region(0x1000, size, ctypes.addressof(block))])
    return block, memory, ctypes.addressof(block)


def test_memory_is_read_and_written_in_pieces():
    block, memory, at = own_memory()
    memory.write([(at + 100, 3), (at + 10, 4)], bytearray(b"abcdefg"))
    assert block[100:103] == b"abc"
    assert memory.read([(at + 10, 4), (at + 100, 3)]) == b"defgabc"
    assert memory.read([]) == b""
    memory.close()


def test_more_pieces_than_one_call_takes():
    block, memory, at = own_memory()
    spans = [(at + number, 1) for number in reversed(range(3000))]
    data = bytearray(number % 251 for number in range(3000))
    memory.write(spans, data)
    assert block[:3000] == bytes(reversed(data))
    assert memory.read(spans) == data


@given(st.integers(0, 1 << 64), st.integers(1, 1 << 33))
def test_translation_covers_all_or_nothing(address, length):
    memory = ProcessMemory(0)
    regions = [Region(0, 1 << 32, 1 << 40), Region(1 << 32, 1 << 20, 5 << 40)]
    memory.set_regions(regions)
    try:
        spans = memory.translate(address, length)
    except ViolationError:
        assert address + length > (1 << 32) + (1 << 20)
        return
    assert sum(size for _, size in spans) == length
    assert all(memory.is_guest_memory(span) for span in spans)


def test_a_process_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(LostError, match=f"process {child.pid}"):
        ProcessMemory(child.pid).open()


def test_a_process_that_ends_meanwhile():
    with subprocess.Popen(["sleep", "100"]) as child:
        memory = ProcessMemory(child.pid)
        memory.open()
        child.kill()
    with pytest.raises(LostError, match=f"process {child.pid}"):
        memory.read([(4096, 1)])
    memory.close()


@pytest.mark.parametrize("address", [0, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_memory_that_is_not_there(address):
    """Whatever QEMU says of where it has the guest's memory."""
    _, memory, _ = own_memory()
    for move in (memory.read, lambda spans: memory.write(spans, bytearray(1))):
        with pytest.raises(LostError, match="is gone"):
            move([(address, 1)])
    memory.close()


def test_memory_that_may_not_be_read_says_what_to_do(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostError, match="cannot be reached") as caught:
        ProcessMemory(1).open()
    assert "ptrace_scope" in caught.value.hint


def channel_pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return Channel(ours), theirs


def test_messages_come_whole_with_their_descriptors():
    channel, qemu = channel_pair()
    read, write = os.pipe()
    data = struct.pack("<III", 12, 1, 8) + bytes(8)
    with qemu:
        socket.send_fds(qemu, [data[:5]], [read])
        assert channel.read() is None
        qemu.sendall(data[5:])
        socket.send_fds(qemu, [data], [write])
        first, second = channel.read(), channel.read()
        assert (first.request, first.payload, len(first.fds), len(second.fds)) == (12, bytes(8), 1, 1)
        assert os.fstat(first.fds[0]).st_ino == os.fstat(read).st_ino
        for fd in (read, write, *first.fds, *second.fds):
            os.close(fd)
    with pytest.raises(EOFError):
        channel.read()
    channel.close()


@pytest.mark.parametrize("header", [(1, 1, 5000), (1, 2, 0), (1, 0, 0)])
def test_a_header_that_makes_no_sense(header):
    channel, qemu = channel_pair()
    with qemu:
        qemu.sendall(struct.pack("<III", *header))
        with pytest.raises(VhostUserError):
            channel.read()
    channel.close()


@pytest.mark.parametrize(
    ("request_number", "payload", "words"),
    [
        (8, b"short", "malformed"),
        (8, struct.pack("<II", 9, 128), "malformed"),
        (5, struct.pack("<II", 9, 0), "9 regions"),
        (5, struct.pack("<II", 2, 0) + bytes(32), "malformed"),
        (24, struct.pack("<III", 4, 8, 0) + bytes(8), "8 bytes of configuration at 4"),
        (6, bytes(16), "request 6, which was not offered"),
    ],
)
def test_a_request_that_makes_no_sense_is_named(request_number, payload, words):
    channel, qemu = channel_pair()
    backend = Backend(channel, ProcessMemory(0), 3, started=lambda ring: None, stopped=lambda ring: None)
    with qemu:
        qemu.sendall(struct.pack("<III", request_number, 1, len(payload)) + payload)
        with pytest.raises(VhostUserError, match=words):
            backend.serve()
    backend.close()


class End:
    """Refuses some dials, then answers."""

    def __init__(self, answers):
        self.answers = list(answers)

    async def connect(self, port, *, deadline_s):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_dial_is_repeated_until_somebody_listens():
    end = End([RefusedError("no"), RefusedError("no"), "socket"])
    assert asyncio.run(dial_until_up(end, 7, deadline_s=60)) == "socket"


@pytest.mark.parametrize("error", [ViolationError("bad"), GuestError("no answer")])
def test_a_dial_is_not_repeated_after_what_cannot_get_better(error):
    end = End([error, "socket"])
    with pytest.raises(type(error)):
        asyncio.run(dial_until_up(end, 7, deadline_s=60))


def test_a_dial_ends_with_its_deadline():
    with pytest.raises(RefusedError, match="still"):
        asyncio.run(dial_until_up(End([RefusedError("still")]), 7, deadline_s=0))


def test_without_the_kernels_device_the_user_end_is_taken(monkeypatch, tmp_path):
    for module in (kernel, probe):
        monkeypatch.setattr(module, "DEVICE", tmp_path / "vhost-vsock")
    assert "does not exist" in probe.find_missing_for_kernel_end()
    with pytest.raises(HostError, match="cannot be opened") as caught:
        KernelEnd()
    assert "modprobe vhost_vsock" in caught.value.hint

    async def open_one():
        async with probe.open_end() as end:
            assert isinstance(end, UserEnd)
            assert end.device().driver == "vhost-user-vsock-pci"
        return end

    assert "dead" in repr(asyncio.run(open_one()))


def test_an_address_in_use_is_another_ones(monkeypatch, tmp_path):
    device = tmp_path / "vhost-vsock"
    device.touch()
    monkeypatch.setattr(kernel, "DEVICE", device)
    tried = []

    def ioctl(_fd, request, argument):
        assert request == 0x4008AF60
        tried.append(struct.unpack("<Q", argument)[0])
        if len(tried) < 3:
            raise OSError(98, "in use")

    monkeypatch.setattr(kernel.fcntl, "ioctl", ioctl)
    end = KernelEnd()
    assert end.cid == tried[2]
    assert len(set(tried)) == 3
    first = end.device()
    assert (first.driver, first.cid) == ("vhost-vsock-pci", end.cid)
    assert end.device().cid == end.cid == tried[3]
    asyncio.run(end.close())
    assert "closed" in repr(end)


def test_closing_a_kernel_listener_wakes_who_accepts(monkeypatch):
    real = socket.socket

    class AutoBound(real):
        """A Unix socket in place of a vsock one: this host's kernel may have none."""

        def __init__(self, *_):
            super().__init__(socket.AF_UNIX)

        def bind(self, address):
            super().bind("")

    async def work():
        with monkeypatch.context() as patch:
            patch.setattr(kernel.socket, "socket", AutoBound)
            listener = kernel.KernelListener(5, 7)
        first, second, third = (asyncio.create_task(listener.accept()) for _ in range(3))
        await asyncio.sleep(0)
        third.cancel()
        listener.close()
        listener.close()
        assert "closed" in repr(listener)
        for task in (first, second):
            with pytest.raises(GuestError, match="vsock port 7 is closed"):
                await task
        with pytest.raises(asyncio.CancelledError):
            await third

    asyncio.run(work())
