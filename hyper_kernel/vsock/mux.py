"""All streams of one guest: which packet belongs to which, who sends next, how many there may be."""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Sequence

from hyper_kernel.errors import BusyError
from hyper_kernel.vsock.connection import Connection, State
from hyper_kernel.vsock.end import RefusedError
from hyper_kernel.vsock.listener import Ports
from hyper_kernel.vsock.packet import HOST_CID, STREAM, Address, Header, Op, Shut, refusal
from hyper_kernel.vsock.stream import HangupWatch, Stream

#: Streams of one guest at most, those included that the guest ended and the program has not read out.
MAX_STREAMS = 256
#: Refusals that wait for a buffer of the guest; no more of its packets are read before they are sent.
MAX_REFUSALS = 256
#: How long a guest may take to agree that a stream is closed, in seconds (VSOCK_CLOSE_TIMEOUT of Linux).
CLOSE_S = 8.0
#: Bytes that a stream may send before another has its turn.
_TURN = 64 * 1024
_FIRST_PORT, _LAST_PORT = 49152, 65535

_Key = tuple[int, int]  # guest port, host port
_Packet = tuple[Header, bytes | memoryview]


class Mux:
    """The table of one guest's streams.

    :param cid: the guest's address.
    :param ports: the host ports it may connect to.
    :param loop: where sockets are watched.
    :param wake: called when there may be packets to ``fill``.
    """

    def __init__(self, cid: int, ports: Ports, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._cid = cid
        self._ports = ports
        self._loop = loop
        self._wake = wake
        self._hangups = HangupWatch(loop)
        self._streams: dict[_Key, Stream] = {}
        self._draining: set[Stream] = set()
        self._dials: dict[_Key, asyncio.Future[socket.socket]] = {}
        self._ready: deque[Stream] = deque()
        self._refusals: deque[Header] = deque()
        self._next_port = random.randint(_FIRST_PORT, _LAST_PORT)

    def __repr__(self) -> str:
        return f"<Mux cid={self._cid} streams={len(self._streams)} draining={len(self._draining)}>"

    @property
    def has_output(self) -> bool:
        """Whether ``fill`` may have packets for the guest."""
        return bool(self._refusals or self._ready)

    @property
    def is_choked(self) -> bool:
        """Whether the guest must take its refusals before more of its packets are read."""
        return len(self._refusals) >= MAX_REFUSALS

    async def dial(self, port: int) -> socket.socket:
        """Connect to a guest port.

        :raise RefusedError: the guest refused, or its device went away.
        :raise BusyError: too many streams.
        """
        if self._is_full():
            raise BusyError(f"the guest has {MAX_STREAMS} vsock streams already")
        key = (port, self._free_port(port))
        stream = self._add(key, Connection.dial(Address(HOST_CID, key[1]), Address(self._cid, port)))
        self._dials[key] = self._loop.create_future()
        self._on_ready(stream)
        try:
            return await self._dials[key]
        except BaseException:
            # Refused, timed out or cancelled: a guest that answers later is told that nobody waits.
            stream.far.close()
            if self._streams.get(key) is stream:
                stream.connection.reset()
                self._on_ready(stream)
            raise
        finally:
            self._dials.pop(key, None)

    def handle(self, header: Header, payload: memoryview) -> None:
        """Take a packet of the guest.

        :raise ViolationError: the guest broke the rules.
        """
        if header.src_cid != self._cid or header.dst_cid != HOST_CID or header.type != STREAM:
            # Any program in the guest can connect to any address: that is no violation.
            self._refuse(header)
            return
        key = (header.src_port, header.dst_port)
        stream = self._streams.get(key)
        if stream is None:
            self._greet(key, header)
            return
        if stream.connection.receive(header):
            stream.deliver(payload)
        if key in self._dials:
            self._answer_dial(key, stream)
        stream.follow()
        if stream.connection.has_control:
            self._queue(stream)
        else:
            self._tidy(stream)

    def fill(self, rooms: Sequence[int]) -> list[_Packet]:
        """Packets for the guest's next buffers.

        :param rooms: of each buffer, the bytes of payload it takes.
        :return: at most one packet per buffer, in order; each fits.
        """
        packets: list[_Packet] = []
        while len(packets) < len(rooms):
            if self._refusals:
                packets.append((self._refusals.popleft(), b""))
            elif self._ready:
                self._serve(self._ready.popleft(), rooms, packets)
            else:
                break
        return packets

    def pause(self) -> None:
        """The guest has no buffers: do not watch sockets of streams that wait for one."""
        for stream in self._ready:
            stream.pause()

    def reset(self) -> None:
        """The device is gone: end every stream. What arrived before can still be read; listeners stay."""
        for future in self._dials.values():
            if not future.done():
                future.set_exception(RefusedError("the guest's vsock device went away"))
        for stream in list(self._streams.values()):
            stream.connection.reset()
            while stream.connection.next_control():
                pass
            stream.follow()
            self._tidy(stream)
        self._refusals.clear()

    def close(self) -> None:
        """End every stream and drop what they hold."""
        self.reset()
        for stream in list(self._draining):
            stream.close()
        self._draining.clear()
        self._hangups.close()

    def _serve(self, stream: Stream, rooms: Sequence[int], packets: list[_Packet]) -> None:
        """Add a stream's packets: one that controls, or a turn's worth of data."""
        stream.is_queued = False
        control = stream.connection.next_control()
        if control is not None:
            packets.append((control, b""))
            self._after_control(stream, control)
            return
        limit = min(sum(rooms[len(packets) :]), _TURN)
        data = memoryview(stream.pull(limit))
        at = 0
        while at < len(data):
            piece = data[at : at + rooms[len(packets)]]
            if piece:
                packets.append((stream.connection.data(len(piece)), piece))
            at += len(piece)
        if data or stream.connection.has_control:
            self._queue(stream)
        self._tidy(stream)

    def _after_control(self, stream: Stream, control: Header) -> None:
        if control.op == Op.SHUTDOWN and control.flags == Shut.BOTH:
            self._loop.call_later(CLOSE_S, self._give_up, stream)
        if stream.connection.state is State.CLOSED:
            self._tidy(stream)
        else:
            self._queue(stream)

    def _give_up(self, stream: Stream) -> None:
        """The guest did not answer SHUTDOWN in time."""
        if stream.connection.state is not State.CLOSED:
            stream.connection.reset()
            stream.follow()
            self._queue(stream)
            self._wake()

    def _greet(self, key: _Key, header: Header) -> None:
        """A packet of no connection: a request to a listener, or a stray."""
        listener = self._ports.find(header.dst_port) if header.op == Op.REQUEST else None
        if listener is None or listener.is_full or self._is_full():
            self._refuse(header)
            return
        stream = self._add(key, Connection.accept(header))
        self._queue(stream)
        listener.offer(stream.far)

    def _answer_dial(self, key: _Key, stream: Stream) -> None:
        future = self._dials[key]
        if stream.connection.state is State.CONNECTING or future.done():
            return
        if stream.connection.state is State.OPEN:
            future.set_result(stream.far)
        else:
            future.set_exception(RefusedError(f"the guest refused the connection to vsock port {key[0]}"))

    def _refuse(self, header: Header) -> None:
        if header.op != Op.RST:
            self._refusals.append(refusal(header))

    def _add(self, key: _Key, connection: Connection) -> Stream:
        stream = self._streams[key] = Stream(connection, self._loop, self._hangups, self._on_ready)
        return stream

    def _on_ready(self, stream: Stream) -> None:
        self._queue(stream)
        self._tidy(stream)
        self._wake()

    def _queue(self, stream: Stream) -> None:
        if not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)

    def _unqueue(self, stream: Stream) -> None:
        # SECURITY: a guest that ends streams and takes no packets must not make the queue grow.
        if stream.is_queued:
            stream.is_queued = False
            self._ready.remove(stream)

    def _tidy(self, stream: Stream) -> None:
        """Take a stream that is over out of the table, and out of memory once the program has read it out."""
        connection = stream.connection
        if connection.state is not State.CLOSED:
            return
        key = (connection.peer.port, connection.local.port)
        if not connection.has_control:
            self._unqueue(stream)
            if self._streams.get(key) is stream:
                del self._streams[key]
                stream.follow()
                self._draining.add(stream)
        if stream.is_closed:
            self._draining.discard(stream)

    def _is_full(self) -> bool:
        return len(self._streams) + len(self._draining) >= MAX_STREAMS

    def _free_port(self, port: int) -> int:
        while (port, self._next_port) in self._streams or self._ports.find(self._next_port):
            self._step_port()
        found = self._next_port
        self._step_port()
        return found

    def _step_port(self) -> None:
        self._next_port = self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT
