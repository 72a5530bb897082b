"""Which end this host offers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hyper_kernel.vsock.end import VsockEnd
from hyper_kernel.vsock.kernel import DEVICE, KernelEnd
from hyper_kernel.vsock.user import UserEnd


def find_missing_for_kernel_end() -> str | None:
    """Why the kernel end cannot be used here, for people; None when it can."""
    if not DEVICE.exists():
        return f"{DEVICE} does not exist (modprobe vhost_vsock)"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} may not be opened by this user"
    return None


@asynccontextmanager
async def open_end() -> AsyncIterator[VsockEnd]:
    """An end for one guest: the kernel's where it can be used, else ours; closed on the way out.

    :raise HostError: the kernel's device is there and fails.
    """
    end: VsockEnd = UserEnd() if find_missing_for_kernel_end() else KernelEnd()
    try:
        yield end
    finally:
        await end.close()
