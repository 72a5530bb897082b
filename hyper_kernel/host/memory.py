"""Memory for guests, as a descriptor without a name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hyper_kernel.errors import HostError


@contextmanager
def open_memory(memory_mib: int) -> Iterator[int]:
    """A memfd for a guest's memory; QEMU re-opens it by /proc/self/fd.

    :raise HostError: the host refuses that much.
    """
    fd = os.memfd_create("hyper-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, memory_mib << 20)
        yield fd
    except OSError as exc:
        raise HostError(f"the host refuses {memory_mib} MiB of memory: {exc}", hint="ask for less --memory") from exc
    finally:
        os.close(fd)
