"""A QEMU that was taken over, on its vhost-user socket: any request, any length, any descriptor, in any order."""

import os
import struct

from hyper_kernel.errors import HyperError
from tests.security.fuzz.plugged import GUEST, SIZE, USER, Device

_RINGS = USER, USER + 0x400, USER + 0x600
_MEMORY = struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE, USER, 0)


def run(choices):
    device = Device()
    try:
        if choices.byte() & 1:
            _plug(device)
        while choices.left and not device.lost:
            _say(choices, device)
            if choices.rarely(64):
                device.front.close()
                break
            if choices.byte() & 3:
                device.loop.turn()
                if choices.byte() & 3:
                    device.hear()
        device.loop.settle()
        assert len(device.lost) <= 1
        assert all([reason is None or isinstance(reason, HyperError) for reason in device.lost])
    finally:
        device.close()


def _plug(device):
    """What an honest QEMU says first."""
    device.tell(5, _MEMORY)
    for index in (0, 1):
        device.tell(8, struct.pack("<II", index, 8))
        device.tell(9, _address(index))
        device.tell(12, struct.pack("<Q", index), [os.eventfd(0)])
        device.tell(13, struct.pack("<Q", index), [os.eventfd(0)])
    device.loop.turn()


def _address(index):
    descriptors, driver, device = (at + 0x1000 * index for at in _RINGS)
    return struct.pack("<IIQQQQ", index, 0, descriptors, device, driver, 0)


def _say(choices, device):
    request = choices.pick((5, 8, 9, 10, 11, 12, 13, 18, 24, 1, 2, 3, 4, 14, 15, 16, 17, 25))
    index = choices.below(3)
    number = choices.number(32) if choices.rarely(4) else choices.below(16)
    if request == 5:
        payload = _memory(choices)
    elif request == 9:
        payload = (
            _address(index)
            if choices.byte() & 3
            else struct.pack("<II4Q", index, 0, *[_near(choices) for _ in range(4)])
        )
    elif request in (12, 13):
        payload = struct.pack("<Q", index | 256 * choices.rarely() | (number << 16) * choices.rarely())
    elif request == 24:
        payload = struct.pack(
            "<III8x", *(choices.number(32) if choices.rarely(4) else 8 * choices.below(2) for _ in range(3))
        )
    else:
        payload = struct.pack("<II", index, number)
    payload = choices.bend(payload)
    if choices.rarely():
        request = choices.number(32)
    flags = choices.pick((1, 9, 9, 1)) if not choices.rarely() else choices.number(32)
    size = len(payload) if not choices.rarely() else choices.number(32)
    count = 1 if request in (12, 13) else 0
    if choices.rarely():
        count = choices.below(20)
    device.tell(request, payload, [_descriptor(choices) for _ in range(count)], flags=flags, size=size)


def _memory(choices):
    if choices.byte() & 3:
        return _MEMORY
    count = choices.below(10)
    rows = [(_near(choices), choices.number(64), _near(choices), 0) for _ in range(count)]
    return struct.pack("<II", count, 0) + b"".join(struct.pack("<QQQQ", *row) for row in rows)


def _near(choices):
    """An address somewhere, mostly in or about the guest's memory."""
    return choices.number(64) if choices.rarely(4) else choices.pick((USER, GUEST)) + 16 * choices.below(0x900)


def _descriptor(choices):
    """Mostly what it should be: an event counter."""
    kind = choices.byte()
    if kind < 200:
        return os.eventfd(kind & 1)
    if kind < 208:
        return os.open("/", os.O_PATH)
    if kind < 216:
        return os.open("/dev/null", os.O_RDWR)
    if kind < 224:
        return os.dup(0)
    ours, theirs = os.pipe()
    os.close(ours if kind < 240 else theirs)
    return theirs if kind < 240 else ours
