"""The device's side of a virtqueue, with rings that a hostile guest wrote."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.memory import ProcessMemory, Region
from hyper_kernel.vsock.virtqueue import MAX_CHAIN, VirtQueue

SIZE = 8
NEXT, WRITE, INDIRECT = 1, 2, 4
#: Two regions that the guest sees side by side and QEMU has apart, and one behind a hole.
REGIONS = [Region(0x1000, 0x1000, 0x70000000), Region(0x2000, 0x1000, 0x50000000), Region(0x8000, 0x2000, 0x60000000)]
TABLE, DRIVER, DEVICE = 0x70000000, 0x70000100, 0x70000200


class CountingMemory(ProcessMemory):
    """Regions as bytes here; whoever reaches outside them fails the test."""

    def __init__(self):
        super().__init__(0)
        self.set_regions(REGIONS)
        self.bytes = {region.user_address: bytearray(region.size) for region in REGIONS}
        self.reads = 0

    def place(self, span):
        address, length = span
        for start, content in self.bytes.items():
            if start <= address and address + length <= start + len(content):
                return content, address - start
        raise AssertionError(f"{length} bytes at {address:#x} are not the guest's")

    def read(self, spans):
        self.reads += 1
        out = bytearray()
        for span in spans:
            content, at = self.place(span)
            out += content[at : at + span[1]]
        return out

    def write(self, spans, data):
        assert sum(length for _, length in spans) == len(data)
        for span in spans:
            content, at = self.place(span)
            content[at : at + span[1]] = data[: span[1]]
            data = data[span[1] :]

    def put(self, address, data):
        self.write([(address, len(data))], bytearray(data))


def make(memory=None, **changes):
    arguments = {
        "size": SIZE,
        "descriptors": TABLE,
        "driver": DRIVER,
        "device": DEVICE,
        "base": 0,
        "device_writes": False,
    }
    return VirtQueue(memory or CountingMemory(), **(arguments | changes))


def offer(memory, *heads, descriptors=(), index=None):
    for number, descriptor in enumerate(descriptors):
        memory.put(TABLE + 16 * number, struct.pack("<QIHH", *descriptor))
    for number, head in enumerate(heads):
        memory.put(DRIVER + 4 + 2 * number, struct.pack("<H", head))
    memory.put(DRIVER, struct.pack("<HH", 0, len(heads) if index is None else index))


def test_a_chain_is_followed_and_used_in_order():
    memory = CountingMemory()
    queue = make(memory)
    offer(
        memory, 1, 3, descriptors=[(0x8000, 9, 0, 0), (0x1800, 44, NEXT, 2), (0x1F00, 0x200, 0, 0), (0x9000, 5, 0, 0)]
    )
    first, second = queue.peek(9)
    assert first == (1, [(0x70000800, 44), (0x70000F00, 0x100), (0x50000000, 0x100)], 44 + 0x200)
    assert second == (3, [(0x60001000, 5)], 5)
    assert queue.peek(1) == [first]
    queue.complete([(1, 0)])
    assert queue.peek(9) == [second]
    queue.complete([(3, 7)], second.spans, b"hello")
    assert queue.peek(9) == []
    assert memory.read([(DEVICE, 20)]) == struct.pack("<HHIIII", 0, 2, 1, 0, 3, 7)
    assert memory.read([(0x60001000, 5)]) == b"hello"
    assert queue.base == 2


def test_bytes_at_once_are_limited_but_one_buffer_always_comes():
    memory = CountingMemory()
    queue = make(memory)
    offer(memory, 0, 0, 0, descriptors=[(0x8000, 100, 0, 0)])
    assert [len(queue.peek(9, max_bytes=limit)) for limit in (1, 199, 200, 300)] == [1, 1, 2, 3]


def test_indices_wrap():
    memory = CountingMemory()
    memory.put(DEVICE + 2, struct.pack("<H", 0xFFFF))
    queue = make(memory, base=0xFFFE)
    offer(memory, *range(8), descriptors=[(0x8000, 1, 0, 0)] * 8, index=2)
    assert [chain.head for chain in queue.peek(9)] == [6, 7, 0, 1]
    queue.complete([(head, 0) for head in (6, 7, 0, 1)])
    assert queue.base == 2
    assert struct.unpack("<H", memory.read([(DEVICE + 2, 2)])) == (3,)


def test_interrupts_and_kicks_are_flags():
    memory = CountingMemory()
    queue = make(memory)
    assert queue.is_interrupt_wanted()
    memory.put(DRIVER, b"\1\0")
    assert not queue.is_interrupt_wanted()
    queue.want_kicks(False)
    assert memory.read([(DEVICE, 2)]) == b"\1\0"
    queue.want_kicks(True)
    assert memory.read([(DEVICE, 2)]) == b"\0\0"


@pytest.mark.parametrize(
    ("heads", "descriptors", "words"),
    [
        ([8], [], "descriptor 8 in a queue of 8"),
        ([0], [(0x8000, 1, NEXT, 8)], "descriptor 8 in a queue of 8"),
        ([0], [(0x8000, 1, NEXT, 0)], "loop"),
        ([0], [(0x8000, 1, NEXT, 1), (0x8000, 1, NEXT, 0)], "loop"),
        ([0], [(0x8000, 1, INDIRECT, 0)], "indirect"),
        ([0], [(0x8000, 1, WRITE, 0)], "wrong direction"),
        ([0], [(0x8000, 0x2001, 0, 0)], "outside its memory"),
        ([0], [(0xFFF, 1, 0, 0)], "outside its memory"),
        ([0], [(0x3000, 1, 0, 0)], "outside its memory"),
        ([0], [((1 << 64) - 1, 2, 0, 0)], "outside its memory"),
        ([0], [(0x1000, MAX_CHAIN + 1, 0, 0)], "more than 1048576 bytes"),
        ([0], [(0x8000, 0xFFFFFFFF, NEXT, 0)], "more than 1048576 bytes"),
    ],
)
def test_nonsense_is_named(heads, descriptors, words):
    memory = CountingMemory()
    queue = make(memory)
    offer(memory, *heads, descriptors=descriptors)
    with pytest.raises(ViolationError, match=words):
        queue.peek(9)


def test_an_index_past_the_ring_is_a_violation():
    memory = CountingMemory()
    queue = make(memory)
    offer(memory, index=9)
    with pytest.raises(ViolationError, match="9 buffers in a queue of 8"):
        queue.peek(9)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": 7},
        {"size": 2048},
        {"descriptors": 0x70000FF0},
        {"driver": 0x4FFFFFFF},
        {"device": 0x60001FFF},
        {"size": 1024},
    ],
)
def test_rings_must_lie_in_guest_memory(changes):
    with pytest.raises(ViolationError):
        make(**changes)


ADDRESSES = st.one_of(st.integers(0xFF0, 0x3010), st.integers(0x7FF0, 0xA010), st.integers(0, (1 << 64) - 1))
DESCRIPTORS = st.tuples(
    ADDRESSES, st.integers(0, 0x1100) | st.integers(0, (1 << 32) - 1), st.integers(0, 7), st.integers(0, SIZE + 1)
)


@settings(deadline=None)
@given(
    st.lists(DESCRIPTORS, min_size=SIZE, max_size=SIZE),
    st.lists(st.integers(0, SIZE), min_size=SIZE, max_size=SIZE),
    st.integers(0, SIZE + 1) | st.integers(0, 65535),
    st.booleans(),
)
def test_whatever_the_guest_writes_only_its_memory_is_reached(descriptors, heads, index, device_writes):
    memory = CountingMemory()
    queue = make(memory, device_writes=device_writes)
    offer(memory, *heads, descriptors=descriptors, index=index)
    before = memory.reads
    try:
        chains = queue.peek(SIZE)
    except ViolationError:
        return
    finally:
        assert memory.reads == before + 1
    assert len(chains) <= SIZE
    for chain in chains:
        assert chain.length == sum(length for _, length in chain.spans) <= MAX_CHAIN
        assert len(memory.read(chain.spans)) == chain.length
        queue.complete([(chain.head, 0)], chain.spans, bytes(chain.length))
