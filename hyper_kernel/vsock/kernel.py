"""The kernel end: the host kernel's own vhost-vsock device."""

import asyncio
import errno
import fcntl
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from hyper_kernel.errors import ConflictError, GuestError, HostError
from hyper_kernel.vsock.end import CONNECT_S, Listener, RefusedError, ViolationError, VsockDevice

DEVICE = Path("/dev/vhost-vsock")
#: _IOW(VHOST_VIRTIO, 0x60, __u64) of <linux/vhost.h>
_SET_GUEST_CID = 0x4008AF60
_BACKLOG = 64
#: Random addresses tried before giving up: a machine has some thousand guests at most.
_ATTEMPTS = 16
_FIRST_CID, _LAST_CID = 1 << 16, (1 << 31) - 1


def claim_cid(cid: int | None = None) -> tuple[int, int]:
    """Open the kernel's device and claim a guest address for as long as it stays open.

    :param cid: this one, or None for a random free one.
    :return: the file descriptor, the address.
    :raise HostError: there is no usable device, or no address is free.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise HostError(
            f"{DEVICE} cannot be opened: {exc.strerror}",
            hint="modprobe vhost_vsock and give this user access to it, or use the user end",
        ) from exc
    for _ in range(_ATTEMPTS):
        wanted = cid or random.randint(_FIRST_CID, _LAST_CID)
        try:
            fcntl.ioctl(fd, _SET_GUEST_CID, struct.pack("<Q", wanted))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE and cid is None:
                continue
            os.close(fd)
            raise HostError(f"the vsock address {wanted} cannot be claimed: {exc.strerror}") from exc
        return fd, wanted
    os.close(fd)
    raise HostError(f"no free vsock address in {_ATTEMPTS} attempts")


class KernelListener:
    """A host port of which one guest's connections are accepted.

    Host ports belong to the whole machine: two ends cannot listen on the same one.
    """

    def __init__(self, cid: int, port: int) -> None:
        self.port = port
        self._cid = cid
        self._is_closed = False
        self._accepting: asyncio.Future[tuple[socket.socket, tuple[int, int]]] | None = None
        self._turn = asyncio.Lock()  # the event loop watches a descriptor for one waiter only
        self._sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        try:
            self._sock.bind((socket.VMADDR_CID_ANY, port))
            self._sock.listen(_BACKLOG)
        except OSError as exc:
            self._sock.close()
            if exc.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"vsock port {port} of this machine has a listener already",
                    hint="host ports are shared by all sandboxes here: let the host dial the guest instead",
                ) from exc
            raise HostError(f"vsock port {port} cannot be listened on: {exc.strerror}") from exc

    def __repr__(self) -> str:
        return f"<KernelListener port={self.port} cid={self._cid}{' closed' if self._is_closed else ''}>"

    async def accept(self) -> socket.socket:
        """See ``Listener``."""
        async with self._turn:
            while True:
                sock, cid = await self._accept_any()
                # SECURITY: any guest of this machine, and any of its own programs, can dial this port.
                if cid == self._cid:
                    return sock
                sock.close()

    def close(self) -> None:
        """See ``Listener``."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._accepting:
            # Before the descriptor's number can mean another file.
            self._accepting.get_loop().remove_reader(self._sock)
            self._accepting.cancel()
        self._sock.close()

    async def _accept_any(self) -> tuple[socket.socket, int]:
        if self._is_closed:
            raise GuestError(f"the listener on vsock port {self.port} is closed")
        task = self._accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(self._sock))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            if not task.cancel() and not task.exception():
                task.result()[0].close()
            raise
        finally:
            self._accepting = None
        if task.cancelled():
            raise GuestError(f"the listener on vsock port {self.port} is closed")
        if problem := task.exception():
            raise HostError(f"vsock port {self.port} cannot accept: {problem}") from problem
        sock, (cid, _) = task.result()
        return sock, cid


class KernelEnd:
    """See ``VsockEnd``. The kernel checks the guest, so ``on_violation`` is never called.

    :raise HostError: the kernel's device cannot be used.
    """

    def __init__(self, *, on_violation: Callable[[ViolationError], None] | None = None) -> None:
        self.on_violation = on_violation
        self._fd, self.cid = claim_cid()
        self._is_fresh = True
        self._is_closed = False
        self._listeners: list[KernelListener] = []

    def __repr__(self) -> str:
        return f"<KernelEnd cid={self.cid}{' closed' if self._is_closed else ''}>"

    def device(self) -> VsockDevice:
        """See ``VsockEnd``."""
        if not self._is_fresh:
            # The kernel binds a device to the first QEMU that uses it: the next plug needs a new one.
            self._let_go()
            self._fd, _ = claim_cid(self.cid)
        self._is_fresh = False
        return VsockDevice(driver="vhost-vsock-pci", fd=self._fd, cid=self.cid, let_go=self._let_go)

    def attach(self, qemu_pid: int) -> None:
        """See ``VsockEnd``; the kernel serves the device by itself."""

    async def connect(self, port: int, *, deadline_s: float = CONNECT_S) -> socket.socket:
        """See ``VsockEnd``."""
        try:
            async with asyncio.timeout(deadline_s):
                while (sock := await self._dial(port)) is None:
                    pass
                return sock
        except TimeoutError as exc:
            raise GuestError(
                f"the guest did not answer on vsock port {port} within {deadline_s:g} s",
                hint="its console says whether it is up",
            ) from exc
        except OSError as exc:
            raise RefusedError(f"the guest refused the connection to vsock port {port}: {exc.strerror}") from exc

    async def _dial(self, port: int) -> socket.socket | None:
        """One attempt; None when the kernel gave up, as it does after 2 s (VSOCK_DEFAULT_CONNECT_TIMEOUT)."""
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (self.cid, port))
        except TimeoutError:
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, port: int) -> Listener:
        """See ``VsockEnd``.

        :raise ConflictError: any program of this machine listens there already.
        """
        listener = KernelListener(self.cid, port)
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        """See ``VsockEnd``."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._let_go()
        self._is_closed = True

    def _let_go(self) -> None:
        """Close our copy of the device: the kernel ends its streams when QEMU's, the last one, is closed too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
