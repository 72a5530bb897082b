"""The user end: a vhost-user vsock device that lives in this process. No kernel module, no privilege, no thread."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from hyper_kernel.errors import GuestError, HyperError, LostError
from hyper_kernel.vsock.end import CONNECT_S, RefusedError, ViolationError, VsockDevice
from hyper_kernel.vsock.listener import HostListener, Ports
from hyper_kernel.vsock.memory import ProcessMemory
from hyper_kernel.vsock.mux import Mux
from hyper_kernel.vsock.pump import Pump
from hyper_kernel.vsock.vhost_user import RX, TX, Backend, Channel, Ring

_log = logging.getLogger(__name__)

#: Every guest of a user end may have the same address: nobody but its own shim sees it.
DEFAULT_CID = 3


class _Plugged:
    """One device from plug to unplug: the vhost-user socket, the rings, the streams.

    :param sock: our half of the vhost-user socket.
    :param theirs: QEMU's half; closed when QEMU has its own copy.
    :param memory: the guest's.
    :param lost: called once when the device is gone, with the reason (None: QEMU closed it).
    """

    def __init__(
        self,
        sock: socket.socket,
        theirs: socket.socket,
        memory: ProcessMemory,
        cid: int,
        ports: Ports,
        lost: Callable[[HyperError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._theirs = theirs
        self._lost = lost
        self._flush_due: asyncio.Handle | None = None
        self._is_closed = False
        self.mux = Mux(cid, ports, self._loop, self._flush_soon)
        self._backend = Backend(Channel(sock), memory, cid, started=self._start, stopped=self._stop)
        self._pump = Pump(memory, self.mux, self._backend.rings[RX], self._backend.rings[TX])
        self._loop.add_reader(sock, self._guard, self._on_message)

    def close(self) -> None:
        """Reset all streams; answer QEMU no more. Again: nothing happens."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._sock)
        self._backend.close()
        self._theirs.close()
        if self._flush_due:
            self._flush_due.cancel()
        self.mux.close()

    def _guard(self, act: Callable[[], None]) -> None:
        """Run a callback of the event loop; any failure of it ends the device, and only that."""
        if self._is_closed:
            return
        reason: HyperError | None = None
        try:
            act()
            return
        except EOFError:
            _log.debug("QEMU closed the vsock device")
        except HyperError as exc:
            reason = exc
        self.close()
        self._lost(reason)

    def _on_message(self) -> None:
        # QEMU spoke, so it has its half: with ours closed, its end is seen as end of file here.
        self._theirs.close()
        self._backend.serve()

    def _start(self, ring: Ring) -> None:
        """A ring begins to run: watch its kick."""
        if ring.stopped_at is not None and ring.base != ring.stopped_at:
            # Not a paused machine that goes on, but a driver that starts from scratch.
            self.mux.reset()
        self._loop.add_reader(ring.kick, self._guard, lambda: self._on_kick(ring))
        self._loop.call_soon(self._guard, self._drain)

    def _stop(self, ring: Ring) -> None:
        self._loop.remove_reader(ring.kick)

    def _on_kick(self, ring: Ring) -> None:
        try:
            os.read(ring.kick, 8)
        except BlockingIOError:
            return
        if ring.index == TX:
            self._drain()
        else:
            self._flush()

    def _drain(self) -> None:
        if self._pump.drain():
            self._loop.call_soon(self._guard, self._drain)

    def _flush(self) -> None:
        was_choked = self.mux.is_choked
        if self._pump.flush():
            self._flush_soon()
        if was_choked and not self.mux.is_choked:
            # The guest has taken its refusals: its packets, left unread meanwhile, are read again.
            self._loop.call_soon(self._guard, self._drain)

    def _flush_soon(self) -> None:
        """One flush per turn of the event loop, however many streams ask for it."""
        if self._flush_due is None and not self._is_closed:
            self._flush_due = self._loop.call_soon(self._guard, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = None
        self._flush()


class UserEnd:
    """See ``VsockEnd``.

    :param cid: the guest's address; 3 or more.
    :param on_violation: called with the reason when the guest broke the rules.
    """

    def __init__(self, cid: int = DEFAULT_CID, *, on_violation: Callable[[ViolationError], None] | None = None) -> None:
        self.cid = cid
        self.on_violation = on_violation
        self._ports = Ports()
        self._memory: ProcessMemory | None = None
        self._offered: tuple[socket.socket, socket.socket] | None = None  # ours, QEMU's
        self._plugged: _Plugged | None = None
        self._ended: HyperError | None = None

    def __repr__(self) -> str:
        state = "dead" if self._ended else repr(self._plugged.mux) if self._plugged else "unplugged"
        return f"<UserEnd cid={self.cid} {state}>"

    def device(self) -> VsockDevice:
        """See ``VsockEnd``."""
        self._unplug()
        ours, theirs = self._offered = socket.socketpair()
        ours.setblocking(False)
        self._serve()
        return VsockDevice(driver="vhost-user-vsock-pci", fd=theirs.fileno(), cid=self.cid, let_go=theirs.close)

    def attach(self, qemu_pid: int) -> None:
        """See ``VsockEnd``."""
        if self._memory is None:
            self._memory = ProcessMemory(qemu_pid)
            self._memory.open()
        assert self._memory.pid == qemu_pid
        self._serve()

    async def connect(self, port: int, *, deadline_s: float = CONNECT_S) -> socket.socket:
        """See ``VsockEnd``."""
        if self._ended:
            raise self._ended
        if self._plugged is None:
            raise RefusedError(f"vsock port {port} cannot be dialled: the guest has no vsock device now")
        try:
            async with asyncio.timeout(deadline_s):
                return await self._plugged.mux.dial(port)
        except TimeoutError as exc:
            raise GuestError(
                f"the guest did not answer on vsock port {port} within {deadline_s:g} s",
                hint="its console says whether it is up",
            ) from exc

    def listen(self, port: int) -> HostListener:
        """See ``VsockEnd``."""
        return self._ports.listen(port)

    async def close(self) -> None:
        """See ``VsockEnd``."""
        self._unplug()
        self._ports.close()
        if self._memory:
            self._memory.close()
        if self._ended is None:
            self._ended = GuestError("the guest's vsock end is closed")

    def _serve(self) -> None:
        """Begin, once both the device and QEMU's process are known."""
        if self._offered and self._memory:
            self._plugged = _Plugged(*self._offered, self._memory, self.cid, self._ports, self._on_lost)
            self._offered = None

    def _unplug(self) -> None:
        if self._offered:
            for sock in self._offered:
                sock.close()
            self._offered = None
        if self._plugged:
            self._plugged.close()
            self._plugged = None

    def _on_lost(self, reason: HyperError | None) -> None:
        self._plugged = None
        if reason is None:
            return
        _log.warning("the vsock device of guest %d is dead: %s", self.cid, reason)
        if not isinstance(reason, LostError):
            self._ended = reason
        if isinstance(reason, ViolationError) and self.on_violation:
            self.on_violation(reason)
