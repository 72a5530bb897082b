"""The device's side of a split virtqueue (virtio 1.2, section 2.7). All that the guest wrote is hostile.

A look at a queue is one read: the driver's index, its ring and the whole descriptor table are copied, and only the
copy is believed, so the guest cannot change what was checked. Indirect descriptors and event index are not offered.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.memory import Memory, Span

#: Entries of a queue at most (QEMU gives vsock queues 128).
MAX_SIZE = 1024
#: Bytes of one chain at most; Linux needs 64 KiB and a header.
MAX_CHAIN = 1 << 20

_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = _NO_NOTIFY = 1
_DESCRIPTOR = struct.Struct("<QIHH")
_HEAD = struct.Struct("<HH")  # flags, index: the start of both rings
_U16 = struct.Struct("<H")
_USED = struct.Struct("<II")


class Chain(NamedTuple):
    """A buffer that the guest offers: its number, where it lies, its bytes."""

    head: int
    spans: list[Span]
    length: int


class VirtQueue:
    """One queue: see what the guest offers (``peek``), give it back used (``complete``), in the same order.

    :param memory: the guest's.
    :param size: entries, a power of two.
    :param descriptors: address of the descriptor table, like ``driver`` (avail) and ``device`` (used) in QEMU's space.
    :param base: the driver's index at which to go on.
    :param device_writes: whether the guest's buffers are for the device to fill.
    :raise ViolationError: a ring lies outside the guest's memory, or its size is no power of two.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        size: int,
        descriptors: int,
        driver: int,
        device: int,
        base: int,
        device_writes: bool,
    ) -> None:
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise ViolationError(f"a vsock queue of {size} entries is not possible")
        for span in ((descriptors, 16 * size), (driver, 6 + 2 * size), (device, 6 + 8 * size)):
            if not memory.is_guest_memory(span):
                raise ViolationError("a vsock queue lies outside the guest's memory")
        self._memory = memory
        self._size = size
        self._driver = driver
        self._device = device
        self._device_writes = device_writes
        self._next = base
        # The index must be read before the ring, and the ring before the descriptors: three vectors, in this order.
        self._look: list[Span] = [(driver, 4), (driver + 4, 2 * size), (descriptors, 16 * size)]
        self._table = 4 + 2 * size
        flags, self._used = _HEAD.unpack(memory.read([(device, 4)]))
        self._kicks_wanted = not flags & _NO_NOTIFY

    @property
    def base(self) -> int:
        """The driver's index up to which buffers were used."""
        return self._next

    def peek(self, limit: int, *, max_bytes: int = MAX_CHAIN) -> list[Chain]:
        """The next buffers on offer, without taking them.

        :param limit: so many at most.
        :param max_bytes: stop after so many bytes (the first buffer is always given).
        :raise ViolationError: the guest's rings make no sense.
        """
        copy = self._memory.read(self._look)
        (index,) = _U16.unpack_from(copy, 2)
        offered = (index - self._next) & 0xFFFF
        # SECURITY: more than a ring's worth cannot be on offer; believing it would walk stale entries.
        if offered > self._size:
            raise ViolationError(f"the guest offers {offered} buffers in a queue of {self._size}")
        chains: list[Chain] = []
        total = 0
        for number in range(self._next, self._next + min(offered, limit)):
            (head,) = _U16.unpack_from(copy, 4 + 2 * (number & (self._size - 1)))
            chain = self._walk(copy, head)
            total += chain.length
            if chains and total > max_bytes:
                break
            chains.append(chain)
        return chains

    def complete(self, written: Sequence[tuple[int, int]], spans: Sequence[Span] = (), data: bytes = b"") -> None:
        """Give back the next buffers, in the order ``peek`` gave them.

        :param written: of each buffer: its head, the bytes put into it.
        :param spans: where ``data`` goes first, before the guest can see the buffers as used.
        """
        if not written:
            return
        out = bytearray(data)
        places = list(spans)
        for head, count in written:
            places.append((self._device + 4 + 8 * (self._used & (self._size - 1)), 8))
            out += _USED.pack(head, count)
            self._used = (self._used + 1) & 0xFFFF
        places.append((self._device + 2, 2))
        out += _U16.pack(self._used)
        self._memory.write(places, out)
        self._next = (self._next + len(written)) & 0xFFFF

    def is_interrupt_wanted(self) -> bool:
        """Whether the guest asks for an interrupt when buffers were used."""
        (flags,) = _U16.unpack(self._memory.read([(self._driver, 2)]))
        return not flags & _NO_INTERRUPT

    def want_kicks(self, wanted: bool) -> None:
        """Ask the guest for a notification per offer, or for none (it may send some all the same)."""
        if wanted != self._kicks_wanted:
            self._kicks_wanted = wanted
            self._memory.write([(self._device, 2)], bytearray(_U16.pack(0 if wanted else _NO_NOTIFY)))

    def _walk(self, copy: bytearray, head: int) -> Chain:
        # SECURITY: a chain has at most as many descriptors as the table, so a loop ends in a violation.
        spans: list[Span] = []
        total, index = 0, head
        for _ in range(self._size):
            if index >= self._size:
                raise ViolationError(f"the guest names descriptor {index} in a queue of {self._size}")
            address, length, flags, follower = _DESCRIPTOR.unpack_from(copy, self._table + 16 * index)
            if flags & _INDIRECT:
                raise ViolationError("the guest uses an indirect descriptor, which was not offered")
            if bool(flags & _WRITE) != self._device_writes:
                raise ViolationError("the guest offers a buffer in the wrong direction")
            total += length
            if total > MAX_CHAIN:
                raise ViolationError(f"the guest offers a buffer of more than {MAX_CHAIN} bytes")
            if length:
                spans += self._memory.translate(address, length)
            if not flags & _NEXT:
                return Chain(head, spans, total)
            index = follower
        raise ViolationError("the guest's descriptors form a loop")
