"""Moves packets between the guest's two queues and its streams."""

from collections.abc import Sequence

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.memory import ProcessMemory, Span
from hyper_kernel.vsock.mux import Mux
from hyper_kernel.vsock.packet import HEADER_SIZE, parse
from hyper_kernel.vsock.vhost_user import Ring
from hyper_kernel.vsock.virtqueue import Chain, VirtQueue

#: Buffers moved at once, and their bytes.
_BATCH = 64
_BATCH_BYTES = 256 * 1024
#: Batches before the event loop has its turn.
_ROUNDS = 8


class Pump:
    """The device at work.

    :param memory: the guest's.
    :param mux: its streams.
    :param rx: the queue of buffers for packets to the guest.
    :param tx: the queue of packets from the guest.
    """

    def __init__(self, memory: ProcessMemory, mux: Mux, rx: Ring, tx: Ring) -> None:
        self._memory = memory
        self._mux = mux
        self._rx = rx
        self._tx = tx

    def drain(self) -> bool:
        """Take the guest's packets, then send what they led to.

        :return: whether there may be more: call again after the event loop's turn.
        :raise ViolationError: the guest broke the rules.
        """
        queue = self._tx.queue
        if queue is None:
            return False
        more, any_used, was_choked = True, False, False
        for _ in range(_ROUNDS):
            if self._mux.is_choked:
                was_choked = True
                break
            chains = queue.peek(_BATCH, max_bytes=_BATCH_BYTES)
            if not chains:
                more = False
                break
            any_used = True
            data = self._memory.read([span for chain in chains for span in chain.spans])
            queue.complete([(chain.head, 0) for chain in chains])
            self._take(chains, memoryview(data))
        if any_used:
            self._tx.notify()
        flush_again = self.flush()
        if was_choked:
            # Unless the refusals went out, the next flush that sends them calls here again.
            more = not self._mux.is_choked
        return flush_again or more

    def flush(self) -> bool:
        """Send what is ready, as far as the guest has buffers.

        :return: whether there may be more to do: call again after the event loop's turn.
        :raise ViolationError: the guest broke the rules.
        """
        queue = self._rx.queue
        if queue is None or self._tx.queue is None:
            self._mux.pause()
            return False
        more, any_used = True, False
        for _ in range(_ROUNDS):
            if not self._mux.has_output:
                more = False
                break
            chains = self._peek_rx(queue)
            if not chains:
                self._mux.pause()
                more = False
                break
            any_used |= self._send(chains)
        if any_used:
            self._rx.notify()
        return more

    def _peek_rx(self, queue: VirtQueue) -> list[Chain]:
        """The guest's next buffers. It need not say when it offers more, except after there were none."""
        chains = queue.peek(_BATCH)
        if not chains:
            queue.want_kicks(True)
            chains = queue.peek(_BATCH)  # offered just before it could see that
        if chains:
            queue.want_kicks(False)
        return chains

    def _take(self, chains: Sequence[Chain], data: memoryview) -> None:
        for chain in chains:
            packet, data = data[: chain.length], data[chain.length :]
            header = parse(packet)
            self._mux.handle(header, packet[HEADER_SIZE : HEADER_SIZE + header.length])

    def _send(self, chains: Sequence[Chain]) -> bool:
        rooms = [chain.length - HEADER_SIZE for chain in chains]
        if min(rooms) <= 0:
            raise ViolationError("the guest offers a buffer that is too small for a vsock packet")
        packets = self._mux.fill(rooms)
        spans: list[Span] = []
        parts: list[bytes | memoryview] = []
        written: list[tuple[int, int]] = []
        for (header, payload), chain in zip(packets, chains, strict=False):
            size = HEADER_SIZE + len(payload)
            parts += (header.pack(), payload)
            spans += _first(chain.spans, size)
            written.append((chain.head, size))
        assert self._rx.queue is not None
        self._rx.queue.complete(written, spans, b"".join(parts))
        return bool(written)


def _first(spans: Sequence[Span], size: int) -> list[Span]:
    """The first ``size`` bytes of a buffer."""
    cut: list[Span] = []
    for address, length in spans:
        if size <= length:
            cut.append((address, size))
            break
        cut.append((address, length))
        size -= length
    return cut
