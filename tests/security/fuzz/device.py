"""A guest's driver that lies: packets, buffers, indices, kicks, in any order, while a program uses its streams."""

import contextlib
import os
import struct

from hyper_kernel.vsock.connection import BUFFER
from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.mux import MAX_REFUSALS, MAX_STREAMS
from hyper_kernel.vsock.packet import Op
from tests.security.fuzz.plugged import GUEST, LISTENED, SIZE, USER, Device

_SIZE = 8
#: Per ring: descriptor table, driver's area, device's area, buffers.
_TABLE, _DRIVER, _DEVICE, _BUFFERS, _NEXT_RING = 0, 0x100, 0x140, 0x400, 0x2000
_HEADER = struct.Struct("<QQIIIHHIII")
_BLOCK = bytes(4096)


def run(choices):
    device = Device()
    driver = Driver(choices, device)
    try:
        steps = (driver.packet, driver.packet, driver.packet, driver.lie, driver.buffers, driver.kick, driver.program)
        while choices.left and not device.lost:
            steps[choices.byte() % len(steps)]()
            device.loop.turn()
            device.accept()
            streams = len(device.mux._streams) + len(device.mux._draining)
            assert streams <= MAX_STREAMS and len(device.mux._refusals) <= MAX_REFUSALS + 64
        driver.kick()
        device.loop.settle()
        assert len(device.lost) <= 1
        assert all([isinstance(reason, ViolationError) for reason in device.lost]), device.lost
    finally:
        device.close()
        driver.close()


class Driver:
    """The guest's side of both rings."""

    def __init__(self, choices, device):
        self.choices, self.device, self.memory = choices, device, device.memory
        self.kicks, self.offered = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)], [0, 0]
        device.tell(5, struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE, USER, 0))
        for index in (0, 1):
            at = USER + index * _NEXT_RING
            device.tell(8, struct.pack("<II", index, _SIZE))
            device.tell(9, struct.pack("<II4Q", index, 0, at + _TABLE, at + _DEVICE, at + _DRIVER, 0))
            device.tell(12, struct.pack("<Q", index), [os.dup(self.kicks[index])])
            device.tell(13, struct.pack("<Q", index), [os.eventfd(0)])
        for number in range(_SIZE):
            self.describe(0, number, GUEST + _BUFFERS + 256 * number, 256, 2, 0)
        device.loop.turn()

    def describe(self, ring, number, *fields):
        struct.pack_into("<QIHH", self.memory, ring * _NEXT_RING + _TABLE + 16 * number, *fields)

    def offer(self, ring, head):
        at = ring * _NEXT_RING + _DRIVER
        struct.pack_into("<H", self.memory, at + 4 + 2 * (self.offered[ring] % _SIZE), head)
        self.offered[ring] = self.offered[ring] + 1 & 0xFFFF
        struct.pack_into("<H", self.memory, at + 2, self.offered[ring])

    def packet(self):
        choices = self.choices
        number = self.offered[1] % _SIZE
        at = _NEXT_RING + _BUFFERS + 512 * number
        op = 1 + choices.below(7) if not choices.rarely() else choices.number(16)
        length = choices.byte() if op == Op.RW else 0
        said = length if not choices.rarely() else choices.number(32)
        remote, local = choices.pick(((40000, LISTENED), (40001, LISTENED), (40002, LISTENED), (5, 5)))
        fwd_cnt = 0 if not choices.rarely(8) else choices.number(32)
        cid = 3 if not choices.rarely(32) else choices.number(64)
        kind, flags = 1 if not choices.rarely(32) else 2, choices.below(4)
        _HEADER.pack_into(self.memory, at, cid, 2, remote, local, said, kind, op, flags, BUFFER, fwd_cnt)
        size = 44 + length if not choices.rarely() else choices.below(60)
        if choices.byte() & 1:
            self.describe(1, number, GUEST + at, size, 0, 0)
        else:
            first = min(size, choices.byte() % 60)
            self.describe(1, number, GUEST + at, first, 1, (number + 1) % _SIZE)
            self.describe(1, (number + 1) % _SIZE, GUEST + at + first, size - first, 0, 0)
        self.offer(1, number)
        os.eventfd_write(self.kicks[1], 1)

    def lie(self):
        """Bytes anywhere in either ring."""
        choices = self.choices
        at = choices.below(2) * _NEXT_RING + choices.below(0x160)
        for byte in choices.bytes(choices.byte() % 8):
            self.memory[at] = byte
            at += 1

    def buffers(self):
        for _ in range(self.choices.byte() % 5):
            self.offer(0, self.offered[0] % _SIZE)

    def kick(self):
        for kick in self.kicks:
            os.eventfd_write(kick, 1)

    def program(self):
        socks = self.device.socks
        if not socks:
            return
        sock, kind = socks[self.choices.below(len(socks))], self.choices.byte() % 4
        with contextlib.suppress(OSError):
            if kind == 0:
                sock.send(_BLOCK[: self.choices.below(4097)])
            elif kind < 3:
                sock.recv(4096)
            else:
                socks.remove(sock)
                sock.close()

    def close(self):
        for kick in self.kicks:
            os.close(kick)
