"""The back end's side of the vhost-user protocol, as far as a vsock device needs it.

Source: QEMU's docs/interop/vhost-user. QEMU asks over a Unix socket, one request at a time; file descriptors ride on
the first byte of a request. The device's configuration is 8 bytes: the guest's CID.
"""

import array
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from hyper_kernel.errors import HostError
from hyper_kernel.vsock.memory import ProcessMemory, Region
from hyper_kernel.vsock.virtqueue import VirtQueue

#: Queues of the device that reach us; QEMU keeps the event queue to itself, but a third is tolerated.
RX, TX, EVENT = 0, 1, 2
QUEUES = 3

_HEADER = struct.Struct("<III")
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESS = struct.Struct("<IIQQQQ")
_REGION = struct.Struct("<QQQQ")
_CONFIG = struct.Struct("<III")

_VERSION, _VERSION_MASK, _REPLY, _NEED_REPLY = 1, 3, 4, 8
_NO_FD = 1 << 8
_MAX_PAYLOAD = 4096
_MAX_FDS = 8
_MAX_ADDRESS = 1 << 64

_F_VERSION_1 = 1 << 32
_F_PROTOCOL_FEATURES = 1 << 30
_PF_MQ, _PF_REPLY_ACK, _PF_CONFIG = 1 << 0, 1 << 3, 1 << 9


class Request(IntEnum):
    """What QEMU asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


class VhostUserError(HostError):
    """QEMU said something on the vhost-user socket that makes no sense."""


class Message(NamedTuple):
    """One request; the receiver owns its file descriptors."""

    request: int
    flags: int
    payload: bytes
    fds: list[int]


class Channel:
    """Cuts a non-blocking Unix socket into messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._fds: list[int] = []

    def read(self) -> Message | None:
        """The next whole message; None where there is none yet.

        :raise EOFError: QEMU closed the socket.
        :raise VhostUserError: it is no message of ours.
        """
        while True:
            need = self._missing()
            if not need:
                return self._take()
            try:
                data, ancillary, _, _ = self.sock.recvmsg(need, socket.CMSG_SPACE(4 * _MAX_FDS))
            except BlockingIOError:
                return None
            except ConnectionError as exc:
                raise EOFError from exc
            for level, kind, raw in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds += array.array("i", raw[: len(raw) // 4 * 4])
            if not data:
                raise EOFError
            # SECURITY: each piece of a message may bring some, until none are left for the rest of the shim.
            if len(self._fds) > _MAX_FDS:
                raise VhostUserError(f"QEMU sent over {_MAX_FDS} file descriptors with a vhost-user message")
            self._buffer += data

    def reply(self, request: int, payload: bytes) -> None:
        """Answer a request; small enough for any socket buffer, if the last answers were read.

        :raise EOFError: QEMU closed the socket.
        :raise VhostUserError: it does not read.
        """
        try:
            self.sock.send(_HEADER.pack(request, _VERSION | _REPLY, len(payload)) + payload)
        except ConnectionError as exc:
            raise EOFError from exc
        except BlockingIOError as exc:
            raise VhostUserError("QEMU does not read the answers to its vhost-user requests") from exc

    def close(self) -> None:
        """Close the socket and whatever file descriptors are left."""
        self.sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _missing(self) -> int:
        # Exact reads: file descriptors of a later message can then never be taken for this one's.
        if len(self._buffer) < _HEADER.size:
            return _HEADER.size - len(self._buffer)
        _, flags, size = _HEADER.unpack_from(self._buffer)
        if size > _MAX_PAYLOAD or flags & _VERSION_MASK != _VERSION:
            raise VhostUserError(f"QEMU sent a vhost-user message of {size} bytes with flags {flags:#x}")
        return int(_HEADER.size + size - len(self._buffer))

    def _take(self) -> Message:
        request, flags, _ = _HEADER.unpack_from(self._buffer)
        message = Message(request, flags, self._buffer[_HEADER.size :], self._fds)
        self._buffer, self._fds = b"", []
        return message


class Ring:
    """What QEMU said of one queue; ``queue`` is set while it runs.

    :ivar stopped_at: index at which it last stopped, or None if it never ran.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.queue: VirtQueue | None = None
        self.kick = -1
        self.call = -1
        self.size = 0
        self.base = 0
        self.stopped_at: int | None = None
        self.addresses: tuple[int, int, int] | None = None
        # Some QEMU 7.2 negotiate protocol features and never send SET_VRING_ENABLE: count as enabled until told.
        self.enabled = True

    @property
    def is_complete(self) -> bool:
        """Whether all is known that the queue needs to run."""
        return self.enabled and self.kick >= 0 and self.size > 0 and self.addresses is not None

    def notify(self) -> None:
        """Interrupt the guest, if it wants that now."""
        if self.queue is None or self.call < 0 or not self.queue.is_interrupt_wanted():
            return
        with contextlib.suppress(BlockingIOError):  # a full counter: an interrupt is pending anyway
            os.write(self.call, b"\1\0\0\0\0\0\0\0")

    def replace(self, name: str, fds: list[int]) -> None:
        """Take over a kick or call file descriptor; -1 where there is none.

        :raise VhostUserError: it is no event counter.
        """
        # SECURITY: others may be readable for ever without a byte to read, or fail in ways that events do not.
        if fds and os.readlink(f"/proc/self/fd/{fds[0]}") != "anon_inode:[eventfd]":
            raise VhostUserError(f"QEMU sent a {name} file descriptor that is no event counter")
        old = getattr(self, name)
        if old >= 0:
            os.close(old)
        setattr(self, name, fds.pop(0) if fds else -1)
        if getattr(self, name) >= 0:
            # SECURITY: it must not be able to block the shim.
            os.set_blocking(getattr(self, name), False)

    def close(self) -> None:
        """Close its file descriptors."""
        self.queue = None
        self.replace("kick", [])
        self.replace("call", [])


class Backend:
    """Answers QEMU's requests and keeps the rings' state.

    :param channel: to QEMU.
    :param memory: whose map QEMU sets.
    :param cid: the guest's address.
    :param started: called with a ring that begins to run.
    :param stopped: called with a ring that will not run any more, while its kick is still open.
    """

    def __init__(
        self,
        channel: Channel,
        memory: ProcessMemory,
        cid: int,
        *,
        started: Callable[[Ring], None],
        stopped: Callable[[Ring], None],
    ) -> None:
        self.rings = [Ring(index) for index in range(QUEUES)]
        self._channel = channel
        self._memory = memory
        self._config = _U64.pack(cid)
        self._started = started
        self._stopped = stopped

    def serve(self) -> None:
        """Answer all requests that have arrived.

        :raise EOFError: QEMU closed the socket.
        :raise VhostUserError: QEMU asked nonsense.
        :raise ViolationError: the guest's rings make no sense.
        """
        while (message := self._channel.read()) is not None:
            try:
                answer = self._handle(message)
            except (struct.error, IndexError) as exc:
                raise VhostUserError(f"QEMU sent a malformed vhost-user request {message.request}") from exc
            finally:
                for fd in message.fds:
                    os.close(fd)
            if answer is None and message.flags & _NEED_REPLY:
                answer = _U64.pack(0)
            if answer is not None:
                self._channel.reply(message.request, answer)

    def close(self) -> None:
        """Stop all rings and close everything."""
        for ring in self.rings:
            self._stop(ring)
            ring.close()
        self._channel.close()

    def _handle(self, message: Message) -> bytes | None:
        payload = message.payload
        match message.request:
            case Request.GET_FEATURES:
                return _U64.pack(_F_VERSION_1 | _F_PROTOCOL_FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return _U64.pack(_PF_MQ | _PF_REPLY_ACK | _PF_CONFIG)
            case Request.GET_QUEUE_NUM:
                return _U64.pack(QUEUES)
            case Request.GET_CONFIG:
                return self._get_config(payload)
            case Request.GET_VRING_BASE:
                return self._get_base(payload)
            case Request.SET_MEM_TABLE:
                self._set_memory(payload)
            case Request.SET_VRING_NUM | Request.SET_VRING_BASE | Request.SET_VRING_ENABLE:
                self._set_state(message.request, *_STATE.unpack(payload))
            case Request.SET_VRING_ADDR:
                index, _, descriptors, used, avail, _ = _ADDRESS.unpack(payload)
                self.rings[index].addresses = (descriptors, avail, used)
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL:
                self._set_fd(message)
            case Request.RESET_OWNER:
                for ring in self.rings:
                    self._stop(ring)
            case (
                Request.SET_FEATURES
                | Request.SET_PROTOCOL_FEATURES
                | Request.SET_OWNER
                | Request.SET_VRING_ERR
                | Request.SET_CONFIG
            ):
                pass  # nothing of it concerns a vsock device
            case unknown:
                raise VhostUserError(f"QEMU sent the vhost-user request {unknown}, which was not offered")
        return None

    def _get_config(self, payload: bytes) -> bytes:
        offset, size, flags = _CONFIG.unpack_from(payload)
        if offset + size > len(self._config):
            raise VhostUserError(f"QEMU asked for {size} bytes of configuration at {offset}")
        return _CONFIG.pack(offset, size, flags) + self._config[offset : offset + size]

    def _get_base(self, payload: bytes) -> bytes:
        """QEMU's way to stop a ring; it blocks until this is answered."""
        index, _ = _STATE.unpack(payload)
        ring = self.rings[index]
        self._stop(ring)
        ring.replace("kick", [])
        return _STATE.pack(index, ring.base)

    def _set_memory(self, payload: bytes) -> None:
        count, _ = _STATE.unpack_from(payload)
        if count > _MAX_FDS:
            raise VhostUserError(f"QEMU sent a memory map of {count} regions")
        rows = [_REGION.unpack_from(payload, _STATE.size + number * _REGION.size) for number in range(count)]
        # SECURITY: addresses are packed into 64 bits when memory is read; none may lie beyond.
        if any(max(guest, user) + size > _MAX_ADDRESS for guest, size, user, _ in rows):
            raise VhostUserError("QEMU sent a memory map that reaches beyond the address space")
        self._memory.set_regions([Region(guest, size, user) for guest, size, user, _ in rows])

    def _set_state(self, request: int, index: int, number: int) -> None:
        ring = self.rings[index]
        if request == Request.SET_VRING_NUM:
            ring.size = number
        elif request == Request.SET_VRING_BASE:
            ring.base = number & 0xFFFF
        else:
            ring.enabled = bool(number)
            self._update(ring)

    def _set_fd(self, message: Message) -> None:
        (value,) = _U64.unpack(message.payload)
        ring = self.rings[value & 0xFF]
        fds = [] if value & _NO_FD else message.fds
        if message.request == Request.SET_VRING_CALL:
            ring.replace("call", fds)
            return
        self._stop(ring)
        ring.replace("kick", fds)
        self._update(ring)

    def _update(self, ring: Ring) -> None:
        if not ring.is_complete:
            self._stop(ring)
        elif ring.queue is None and ring.addresses is not None:
            descriptors, avail, used = ring.addresses
            ring.queue = VirtQueue(
                self._memory,
                size=ring.size,
                descriptors=descriptors,
                driver=avail,
                device=used,
                base=ring.base,
                device_writes=ring.index != TX,
            )
            self._started(ring)

    def _stop(self, ring: Ring) -> None:
        if ring.queue is not None:
            self._stopped(ring)
            ring.base = ring.stopped_at = ring.queue.base
            ring.queue = None
