"""A driver that lies in its ring, against a model of the ring that believes nothing."""

import struct

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.virtqueue import MAX_CHAIN, MAX_SIZE, VirtQueue
from tests.security.fuzz.guest_memory import REGIONS, GuestMemory

_TABLE, _DRIVER, _DEVICE = 0x70000000, 0x70000200, 0x70000300
_DESCRIPTOR = struct.Struct("<QIHH")
_U16 = struct.Struct("<H")


def run(choices):
    memory = GuestMemory()
    ring = memory.bytes[0][1]
    size = choices.pick((8, 4, 1, 2, 16, 3, 0, MAX_SIZE, MAX_SIZE + 1, 1 << 31))
    base = choices.pick((0, 0xFFFE, 0xFFFF, 0x7FFF, 1))
    used = choices.pick((0, 0xFFFF, 0x8000))
    _U16.pack_into(ring, 0x302, used)
    places = {"descriptors": _TABLE, "driver": _DRIVER, "device": _DEVICE}
    if choices.rarely():
        places[choices.pick(("descriptors", "driver", "device"))] = choices.number(64)
    try:
        queue = VirtQueue(memory, size=size, base=base, device_writes=False, **places)
    except ViolationError:
        assert size not in (1, 2, 4, 8, 16) or set(places.values()) != {_TABLE, _DRIVER, _DEVICE}
        return
    if size <= 16 and set(places.values()) == {_TABLE, _DRIVER, _DEVICE}:
        _drive(choices, memory, ring, queue, size, base, used)


def _drive(choices, memory, ring, queue, size, base, used):
    for index in range(size):
        _DESCRIPTOR.pack_into(ring, 16 * index, 0x8000 + 64 * index, 44 + index, 0, 0)
    offered = base
    while choices.left:
        for _ in range(choices.byte() % 3):
            _write_descriptor(choices, ring, size)
        for _ in range(choices.byte() % 4):
            head = choices.below(size) if not choices.rarely() else choices.number(16)
            _U16.pack_into(ring, 0x204 + 2 * (offered % size), head)
            offered = offered + 1 & 0xFFFF
        if choices.rarely():
            offered = choices.number(16)
        _U16.pack_into(ring, 0x202, offered)
        limit, most = choices.below(size + 2), choices.pick((MAX_CHAIN, 1, 100, 5000))
        expected = _expect(memory, ring, queue.base, size, offered, limit, most)
        before, memory.reads, memory.moved = bytes(ring), 0, 0
        try:
            chains = queue.peek(limit, max_bytes=most)
        except ViolationError:
            assert expected is None
            return
        finally:
            # What was checked is what is used: one read, of the rings alone, and nothing written.
            assert memory.reads == 1 and memory.moved == 4 + 18 * size and ring == before
        assert expected == [(chain.head, chain.length) for chain in chains]
        for chain in chains:
            assert sum([length for _, length in chain.spans]) == chain.length <= MAX_CHAIN
            assert len(chain.spans) <= size * len(REGIONS)
            memory.read(chain.spans)
        done = chains[: choices.below(len(chains) + 1)]
        queue.complete([(chain.head, chain.length) for chain in done])
        for chain in done:
            assert struct.unpack_from("<II", ring, 0x304 + 8 * (used % size)) == (chain.head, chain.length)
            used = used + 1 & 0xFFFF
        base = base + len(done) & 0xFFFF
        assert queue.base == base and _U16.unpack_from(ring, 0x302) == (used,)


def _write_descriptor(choices, ring, size):
    address, length, flags, follower = 0x1800 + 16 * choices.byte(), choices.byte(), choices.pick((0, 1, 1, 1)), 0
    if flags:
        follower = choices.below(size)
    odd = choices.byte()
    if odd < 16:
        address = choices.number(64)
    elif odd < 32:
        length = choices.number(32)
    elif odd < 48:
        flags = choices.number(16)
    elif odd < 64:
        follower = choices.number(16)
    elif odd < 80:
        address = choices.pick((0xFFF, 0x1000, 0x1FFF, 0x2000, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x9FFF, 0xA000))
    _DESCRIPTOR.pack_into(ring, 16 * choices.below(size), address, length, flags, follower)


def _expect(memory, ring, base, size, offered, limit, most):
    """What a peek gives as (head, bytes), or None where it is a violation; written from the specification."""
    count = (offered - base) % 65536
    if count > size:
        return None
    found, total = [], 0
    for number in range(min(count, limit)):
        (head,) = _U16.unpack_from(ring, 0x204 + 2 * ((base + number) % 65536 % size))
        length, index, seen = 0, head, set()
        while True:
            if index >= size or index in seen:
                return None
            seen.add(index)
            address, piece, flags, follower = _DESCRIPTOR.unpack_from(ring, 16 * index)
            length += piece
            if flags & 6 or length > MAX_CHAIN or not all(map(_is_memory, _edges(address, piece))):
                return None
            if not flags & 1:
                break
            index = follower
        total += length
        if found and total > most:
            break
        found.append((head, length))
    return found


def _edges(address, length):
    """The pages' first and last bytes of a stretch: regions begin and end with pages."""
    return {address, address + length - 1, *range(address, address + length, 0x1000)} if length else ()


def _is_memory(address):
    return 0x1000 <= address < 0x3000 or 0x8000 <= address < 0xA000
