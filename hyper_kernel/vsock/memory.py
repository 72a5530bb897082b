"""The guest's memory, read and written in QEMU's address space by the file ``/proc/PID/mem``.

vhost-user back ends usually map the guest's memory, which then must be shared and cannot be a copy-on-write clone of
a template. Reading it through the kernel works for any memory. Opening the file takes the right to ptrace QEMU; using
it takes none, so that a process can give up all rights over others once it has it.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hyper_kernel.errors import HostError, LostError
from hyper_kernel.vsock.end import ViolationError

#: A piece of QEMU's address space: address, bytes.
Span = tuple[int, int]


class Region(NamedTuple):
    """A stretch of guest memory: where the guest sees it, its bytes, where QEMU sees it."""

    guest_address: int
    size: int
    user_address: int


class Memory(Protocol):
    """Guest memory as the virtqueues need it."""

    def translate(self, guest_address: int, length: int) -> list[Span]:
        """Where QEMU has a guest's bytes.

        :raise ViolationError: they are not all in the guest's memory.
        """

    def is_guest_memory(self, span: Span) -> bool:
        """Whether a piece of QEMU's address space is the guest's memory."""

    def read(self, spans: Sequence[Span]) -> bytearray:
        """The bytes at these places, one after another, read in that order."""

    def write(self, spans: Sequence[Span], data: bytearray) -> None:
        """Put bytes at these places, in that order; ``data`` has as many bytes as the spans."""


class ProcessMemory:
    """The memory of the guest that a QEMU process runs.

    :param pid: of QEMU.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._file = -1
        self._regions: list[Region] = []

    def open(self) -> None:
        """Get at it. Again: nothing happens.

        :raise LostError: QEMU is gone.
        :raise HostError: this process may not read QEMU's memory.
        """
        if self._file >= 0:
            return
        try:
            self._file = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as exc:
            raise LostError(f"the memory of QEMU (process {self.pid}) is gone") from exc
        except OSError as exc:
            raise HostError(
                f"the memory of QEMU (process {self.pid}) cannot be reached: {exc.strerror}",
                hint="QEMU must be a child of this process, and /proc/sys/kernel/yama/ptrace_scope below 2",
            ) from exc

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def set_regions(self, regions: Sequence[Region]) -> None:
        """Replace the guest's memory map."""
        self._regions = list(regions)

    def translate(self, guest_address: int, length: int) -> list[Span]:
        """See ``Memory``."""
        # SECURITY: only addresses inside a region pass, whatever the guest wrote; Python's integers do not wrap.
        spans: list[Span] = []
        while True:
            for start, size, user in self._regions:
                offset = guest_address - start
                if 0 <= offset < size:
                    part = min(length, size - offset)
                    spans.append((user + offset, part))
                    break
            else:
                raise ViolationError(f"the guest named {length} bytes at {guest_address:#x}, outside its memory")
            if part == length:
                return spans
            guest_address += part
            length -= part

    def is_guest_memory(self, span: Span) -> bool:
        """See ``Memory``."""
        address, length = span
        return any(
            user <= address and address + length <= user + size for _, size, user in self._regions
        )  # fmt: skip

    def read(self, spans: Sequence[Span]) -> bytearray:
        """See ``Memory``.

        :raise LostError: QEMU is gone.
        """
        data = bytearray(sum(length for _, length in spans))
        self._transfer(os.preadv, spans, data)
        return data

    def write(self, spans: Sequence[Span], data: bytearray) -> None:
        """See ``Memory``.

        :raise LostError: QEMU is gone.
        """
        self._transfer(os.pwritev, spans, data)

    def _transfer(
        self, call: Callable[[int, list[memoryview], int], int], spans: Sequence[Span], data: bytearray
    ) -> None:
        view, at = memoryview(data), 0
        for address, length in spans:
            try:
                moved = call(self._file, [view[at : at + length]], address)
            except (OSError, OverflowError) as exc:  # overflow: QEMU named an address that no process has
                raise LostError(f"the memory of QEMU (process {self.pid}) is gone: {exc}") from exc
            if moved != length:
                raise LostError(f"the memory of QEMU (process {self.pid}) is gone: {moved} of {length} bytes moved")
            at += length
