"""Streams between host and guest: two ends behind one interface (see README.md)."""

from hyper_kernel.vsock.end import Listener, RefusedError, ViolationError, VsockDevice, VsockEnd, dial_until_up
from hyper_kernel.vsock.kernel import KernelEnd
from hyper_kernel.vsock.user import UserEnd

__all__ = [
    "KernelEnd",
    "Listener",
    "RefusedError",
    "UserEnd",
    "ViolationError",
    "VsockDevice",
    "VsockEnd",
    "dial_until_up",
]
