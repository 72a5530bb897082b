"""The guest's memory, read and written in QEMU's address space with ``process_vm_readv`` and ``process_vm_writev``.

vhost-user back ends usually map the guest's memory, which then must be shared and cannot be a copy-on-write clone of
a template. Reading it through the kernel works for any memory, and needs the right to ptrace QEMU.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hyper_kernel.errors import HostError, LostError
from hyper_kernel.vsock.end import ViolationError

#: A piece of QEMU's address space: address, bytes.
Span = tuple[int, int]

#: UIO_MAXIOV of Linux: vectors in one call.
_MAX_VECTORS = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_VECTORS = (ctypes.c_void_p, ctypes.c_ulong)
for _call in (_libc.process_vm_readv, _libc.process_vm_writev):
    _call.argtypes = (ctypes.c_int, *_VECTORS, *_VECTORS, ctypes.c_ulong)
    _call.restype = ctypes.c_ssize_t


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
    """The memory of the guest that a QEMU process runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._regions: list[Region] = []

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
        :raise HostError: this process may not read QEMU's memory.
        """
        data = bytearray(sum(length for _, length in spans))
        self._transfer(_libc.process_vm_readv, spans, data)
        return data

    def write(self, spans: Sequence[Span], data: bytearray) -> None:
        """See ``Memory``.

        :raise LostError: QEMU is gone.
        :raise HostError: this process may not write QEMU's memory.
        """
        self._transfer(_libc.process_vm_writev, spans, data)

    def _transfer(self, call: "ctypes._NamedFuncPointer", spans: Sequence[Span], data: bytearray) -> None:
        if not data:
            return
        at = ctypes.addressof(ctypes.c_char.from_buffer(data))
        for first in range(0, len(spans), _MAX_VECTORS):
            part = spans[first : first + _MAX_VECTORS]
            remote = struct.pack(f"{2 * len(part)}Q", *(number for span in part for number in span))
            size = sum(length for _, length in part) if len(spans) > _MAX_VECTORS else len(data)
            moved = call(self._pid, struct.pack("QQ", at, size), 1, remote, len(part), 0)
            if moved != size:
                self._fail(ctypes.get_errno() if moved < 0 else errno.EFAULT)
            at += size

    def _fail(self, number: int) -> None:
        reason = os.strerror(number)
        if number in (errno.ESRCH, errno.EFAULT):
            raise LostError(f"the memory of QEMU (process {self._pid}) is gone: {reason}")
        raise HostError(
            f"the memory of QEMU (process {self._pid}) cannot be reached: {reason}",
            hint="QEMU must be a child of this process, of this user, with /proc/sys/kernel/yama/ptrace_scope below 2",
        )
