"""What the rest of the program sees of vsock: an end of the guest's streams on the host."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hyper_kernel.errors import GuestError

#: How long a dial waits for the guest's answer, in seconds, when the caller does not say.
CONNECT_S = 10.0
#: Pause between two dials of a port that nobody listens on yet, in seconds.
_REDIAL_S = 0.02


class RefusedError(GuestError):
    """The guest refused a connection or reset it before it was up."""


class ViolationError(GuestError):
    """The guest broke the rules of virtio or vsock: its device is dead, the sandbox must go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockDevice:
    """What to plug into QEMU so that the guest gets a vsock device.

    :ivar driver: ``vhost-user-vsock-pci`` (``fd`` is the socket of a ``chardev-add`` of type fd) or
        ``vhost-vsock-pci`` (``fd`` is its ``vhostfd``).
    :ivar fd: to be sent with QMP ``getfd``; stays the end's, which closes it.
    :ivar cid: the guest's address.
    :ivar let_go: to be called once QEMU has the device, and so its own copy of ``fd``.
    """

    driver: str
    fd: int
    cid: int
    let_go: Callable[[], None]


class Listener(Protocol):
    """A host port that the guest may connect to."""

    async def accept(self) -> socket.socket:
        """Wait for the guest's next connection; a non-blocking socket.

        :raise GuestError: the listener or its end was closed.
        """

    def close(self) -> None:
        """Stop listening; connections that nobody accepted are reset. Again: nothing happens."""


class VsockEnd(Protocol):
    """The host's end of one guest's streams. Every stream is a real, connected, non-blocking stream socket.

    Closing or half-closing it does the same to the guest's socket. A guest that resets a stream, or whose device
    goes, ends it: reads give what had arrived, then end of file or ``ConnectionResetError``; writes fail.
    Guests see the host as CID 2. All methods are for the event loop's thread.
    """

    cid: int
    #: Called at most once, with the reason, when the guest has broken the rules; the end is dead then.
    on_violation: Callable[[ViolationError], None] | None

    def device(self) -> VsockDevice:
        """A fresh device to plug. Connections of one plugged before are reset, listeners stay."""

    def attach(self, qemu_pid: int) -> None:
        """Serve the device that ``device()`` gave last or will give next, on the running event loop.

        Must come before ``device_add``, which waits for our answers.

        :param qemu_pid: the process whose memory the guest lives in. The end must be closed, or QEMU's side of the
            device gone, before that process is reaped.
        """

    async def connect(self, port: int, *, deadline_s: float = CONNECT_S) -> socket.socket:
        """Dial a port of the guest. Before the guest's driver is up, the dial waits for it.

        :raise RefusedError: the guest refused it, or its device went away.
        :raise GuestError: no answer before the deadline.
        :raise BusyError: too many connections.
        """

    def listen(self, port: int) -> Listener:
        """Let the guest connect to a host port.

        :raise ConflictError: the port has a listener already.
        """

    async def close(self) -> None:
        """Reset all streams and let go of everything. Again: nothing happens."""


async def dial_until_up(end: VsockEnd, port: int, *, deadline_s: float) -> socket.socket:
    """Dial a port of the guest until somebody listens there.

    :param deadline_s: seconds for all attempts together.
    :raise ViolationError: the guest broke the rules meanwhile.
    :raise GuestError: nobody listened before the deadline.
    """
    deadline = asyncio.get_running_loop().time() + deadline_s
    while True:
        left = deadline - asyncio.get_running_loop().time()
        try:
            return await end.connect(port, deadline_s=max(left, 0))
        except RefusedError:
            if left <= _REDIAL_S:
                raise
        # A guest sends no event when a program in it starts to listen: asking again is the only way to know.
        await asyncio.sleep(_REDIAL_S)
