"""A vsock device whole, as the shim has it, on a loop turned by hand; QEMU and memory are the fuzzer's."""

import asyncio
import contextlib
import os
import socket
import struct

from hyper_kernel.errors import LostError
from hyper_kernel.vsock import user as user_module
from hyper_kernel.vsock.listener import Ports
from hyper_kernel.vsock.memory import ProcessMemory
from tests.security.fuzz.fake_loop import FakeLoop, assert_none_left, lowest_fd

#: Where QEMU has the guest's memory, and where the guest sees it.
USER, GUEST, SIZE = 0x7F0000000000, 0x100000, 0x8000
LISTENED = 7


class SomeMemory(ProcessMemory):
    """QEMU's address space, of which only the guest's memory is mapped, whatever QEMU says."""

    bytes = bytearray()

    def _transfer(self, call, spans, data):
        done, is_read = 0, call.__name__ == "preadv"
        for address, length in spans:
            at = address - USER
            if at < 0 or at + length > SIZE:
                raise LostError("the memory of QEMU is gone")
            if is_read:
                data[done : done + length] = self.bytes[at : at + length]
            else:
                self.bytes[at : at + length] = data[done : done + length]
            done += length


class Device:
    """``front`` is QEMU's half of the socket, ``memory`` the guest's; ``lost`` says how it ended."""

    def __init__(self):
        self._before = lowest_fd()
        self.loop, self.ports, self.lost = FakeLoop(), Ports(), []
        self.listener = self.ports.listen(LISTENED)
        self.memory = SomeMemory.bytes = bytearray(SIZE)
        self.socks = []
        ours, self.front = socket.socketpair()
        ours.setblocking(False)
        self.front.setblocking(False)
        was = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self.loop)
        try:
            theirs = socket.socket(fileno=os.dup(self.front.fileno()))
            self.plugged = user_module._Plugged(ours, theirs, SomeMemory(1), 3, self.ports, self.lost.append)
        finally:
            asyncio.events._set_running_loop(was)

    @property
    def mux(self):
        return self.plugged.mux

    def tell(self, request, payload=b"", fds=(), *, flags=1, size=None):
        """Say something as QEMU, and close what descriptors were sent."""
        data = struct.pack("<III", request, flags, len(payload) if size is None else size) + payload
        with contextlib.suppress(BlockingIOError, ConnectionError):
            socket.send_fds(self.front, [data], list(fds))
        for fd in fds:
            os.close(fd)

    def hear(self):
        """What it answers."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return self.front.recv(1 << 16)
        return b""

    def accept(self):
        while self.listener._waiting.qsize():
            self.socks.append(self.listener._waiting.get_nowait())

    def close(self):
        """End it; nothing may be left."""
        self.accept()
        self.plugged.close()
        self.ports.close()
        for sock in (self.front, *self.socks):
            sock.close()
        self.loop.turn()
        self.loop.pass_time()
        assert not self.loop.readers and not self.loop.writers, "a closed socket is still watched"
        assert_none_left(self._before)
