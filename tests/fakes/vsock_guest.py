"""A guest for the user end, without QEMU: its memory is an anonymous map of this process, its driver is written here.

It plays two parts. Towards the vhost-user socket it is QEMU: memory map, rings, event descriptors. Towards the rings it
is Linux's virtio-vsock driver: 64 receive buffers of header + 4 KiB, packets of up to 64 KiB, credit as in
net/vmw_vsock/virtio_transport_common.c. It shares no code with ``hyper_kernel.vsock``. Tests that want a hostile guest
write its rings and packets by hand.
"""

import asyncio
import ctypes
import mmap
import os
import socket
import struct
from collections import deque

HEADER = struct.Struct("<QQIIIHHIII")
REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
NO_RECEIVE, NO_SEND = 1, 2
BUFFER = 256 * 1024
PACKET = 64 * 1024
RX, TX = 0, 1
NEXT, WRITE = 1, 2
#: Where the guest's memory begins in its own eyes; not 0, so that a mistaken address shows.
BASE = 0x100000


class Ring:
    """The driver's side of one split ring, and its slots."""

    def __init__(self, memory, start, size, slots):
        self.memory, self.size = memory, size
        self.descriptors = start
        self.avail = start + 16 * size
        self.used = (self.avail + 6 + 2 * size + 7) & ~7
        self.end = (self.used + 6 + 8 * size + 4095) & ~4095
        self.offered = self.seen = 0
        self.free = deque(range(slots))
        self.kick, self.call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))

    def put(self, index, address, length, flags=0, follower=0):
        struct.pack_into("<QIHH", self.memory, self.descriptors + 16 * index, address, length, flags, follower)

    def offer(self, head):
        struct.pack_into("<H", self.memory, self.avail + 4 + 2 * (self.offered % self.size), head)
        self.offered = (self.offered + 1) & 0xFFFF
        struct.pack_into("<H", self.memory, self.avail + 2, self.offered)

    def notify(self):
        (flags,) = struct.unpack_from("<H", self.memory, self.used)
        if not flags & 1:
            os.eventfd_write(self.kick, 1)

    def collect(self):
        while self.seen != struct.unpack_from("<H", self.memory, self.used + 2)[0]:
            head, written = struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen % self.size))
            self.seen = (self.seen + 1) & 0xFFFF
            yield head, written


class FrontEnd:
    """What QEMU says on the vhost-user socket."""

    def __init__(self, fd):
        self.sock = socket.socket(fileno=os.dup(fd))
        self.sock.setblocking(False)

    async def tell(self, request, payload=b"", fds=(), *, ack=False, reply=False):
        flags = 1 | (8 if ack else 0)
        socket.send_fds(self.sock, [struct.pack("<III", request, flags, len(payload)) + payload], list(fds))
        if not (ack or reply):
            return None
        loop = asyncio.get_running_loop()
        _, _, size = struct.unpack("<III", await self.read(loop, 12))
        return await self.read(loop, size)

    async def read(self, loop, size):
        data = b""
        while len(data) < size:
            data += (part := await loop.sock_recv(self.sock, size - len(data)))
            if not part:
                raise EOFError
        return data


class FakeGuest:
    """Plug it, then ``listen``, ``dial`` and use streams as a program in the guest would.

    :param end: the end under test.
    :param size: entries of each ring.
    """

    def __init__(self, end, size=128):
        self.end, self.size = end, size
        self.memory = mmap.mmap(-1, 16 << 20)
        self.view = memoryview(self.memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.rings = []
        self.front = None
        self.streams, self.listeners, self.dials = {}, {}, {}
        self.outbox = deque()
        self.next_port = 40000
        self.cid = None

    # QEMU's part

    async def plug(self, *, regions=None):
        device = self.end.device()
        self.end.attach(os.getpid())
        self.front = FrontEnd(device.fd)
        tell = self.front.tell
        (features,) = struct.unpack("<Q", await tell(1, reply=True))
        assert features >> 32 & 1
        await tell(15, reply=True)
        await tell(16, struct.pack("<Q", 1 << 3 | 1 << 9))
        await tell(3)
        config = await tell(24, struct.pack("<III8x", 0, 8, 0), reply=True)
        (self.cid,) = struct.unpack("<Q", config[12:])
        await tell(2, struct.pack("<Q", 1 << 32 | 1 << 30))
        rows = regions or [(BASE, len(self.memory), self.address, 0)]
        await tell(5, struct.pack("<II", len(rows), 0) + b"".join(struct.pack("<QQQQ", *row) for row in rows), ack=True)
        self.load_driver()
        for index in (RX, TX):
            await self.start(index)
        return self

    async def start(self, index, base=0):
        ring, tell = self.rings[index], self.front.tell
        await tell(8, struct.pack("<II", index, ring.size))
        await tell(10, struct.pack("<II", index, base))
        at = self.address
        await tell(9, struct.pack("<IIQQQQ", index, 0, at + ring.descriptors, at + ring.used, at + ring.avail, 0))
        await tell(12, struct.pack("<Q", index), [ring.kick])
        await tell(13, struct.pack("<Q", index), [ring.call])
        await tell(18, struct.pack("<II", index, 1), ack=True)

    async def stop(self, index):
        """As on a pause of the machine; the answer is where to go on."""
        await self.front.tell(18, struct.pack("<II", index, 0), ack=True)
        return struct.unpack("<II", await self.front.tell(11, struct.pack("<II", index, 0), reply=True))[1]

    async def unplug(self):
        for index in (RX, TX):
            await self.stop(index)
        self.hang_up()

    def hang_up(self):
        """QEMU is gone; so are all connections in the guest."""
        if self.front is None:
            return
        self.front.sock.close()
        self.front = None
        for ring in self.rings:
            asyncio.get_running_loop().remove_reader(ring.call)
            os.close(ring.call)
            os.close(ring.kick)
        for stream in list(self.streams.values()):
            stream.end(reset=True)

    # the driver's part

    def load_driver(self):
        self.memory[:] = bytes(len(self.memory))
        rx = Ring(self.memory, 0, self.size, 0)
        tx = Ring(self.memory, rx.end, self.size, self.size // 2)
        self.rings = [rx, tx]
        self.rx_at = tx.end
        self.tx_at = self.rx_at + self.size // 2 * (HEADER.size + 4096)
        for slot in range(self.size // 2):
            at = BASE + self.rx_at + slot * (HEADER.size + 4096)
            rx.put(2 * slot, at, HEADER.size, WRITE | NEXT, 2 * slot + 1)
            rx.put(2 * slot + 1, at + HEADER.size, 4096, WRITE)
            rx.offer(2 * slot)
        loop = asyncio.get_running_loop()
        loop.add_reader(rx.call, self.on_rx)
        loop.add_reader(tx.call, self.on_tx)

    def on_rx(self):
        os.eventfd_read(self.rings[RX].call)
        for head, written in self.rings[RX].collect():
            at = self.rx_at + head // 2 * (HEADER.size + 4096)
            header = HEADER.unpack_from(self.memory, at)
            assert written == HEADER.size + header[4]
            self.receive(header, bytes(self.view[at + HEADER.size : at + written]))
            self.rings[RX].offer(head)
        self.rings[RX].notify()
        self.flush()

    def on_tx(self):
        os.eventfd_read(self.rings[TX].call)
        self.rings[TX].free += [head // 2 for head, _ in self.rings[TX].collect()]
        self.flush()

    def flush(self):
        """Packets into free slots: answers first, then what streams want to send."""
        ring = self.rings[TX]
        was = ring.offered
        while ring.free and self.outbox:
            self.put_packet(*self.outbox.popleft())
        for stream in list(self.streams.values()):
            stream.push()
        if ring.offered != was:
            ring.notify()

    def put_packet(self, header, payload=b""):
        ring = self.rings[TX]
        slot = ring.free.popleft()
        at = self.tx_at + slot * (HEADER.size + PACKET)
        self.view[at : at + len(header) + len(payload)] = header + payload
        ring.put(2 * slot, BASE + at, len(header), NEXT if payload else 0, 2 * slot + 1)
        ring.put(2 * slot + 1, BASE + at + len(header), len(payload))
        ring.offer(2 * slot)

    def send_raw(self, data):
        """Any bytes as one packet, from whoever wants to be hostile."""
        self.put_packet(data[:44], data[44:])
        self.rings[TX].notify()

    def send_header(self, local, remote, op, *, length=0, flags=0, fwd_cnt=0, buf_alloc=BUFFER, dst_cid=2, payload=b""):
        header = HEADER.pack(self.cid, dst_cid, local, remote, length, 1, op, flags, buf_alloc, fwd_cnt)
        self.outbox.append((header, payload))
        self.flush()

    # sockets

    def receive(self, header, payload):
        src_cid, dst_cid, remote, local, length, kind, op, flags, buf_alloc, fwd_cnt = header
        assert (src_cid, dst_cid, kind, length) == (2, self.cid, 1, len(payload)), header
        stream = self.streams.get((local, remote))
        if stream:
            stream.receive(op, flags, buf_alloc, fwd_cnt, payload)
        elif op == REQUEST and local in self.listeners:
            stream = self.streams[local, remote] = FakeStream(self, local, remote)
            stream.credit, stream.is_open = buf_alloc, True
            stream.control(RESPONSE)
            self.listeners[local].put_nowait(stream)
        elif op != RST:
            self.send_header(local, remote, RST, buf_alloc=0)

    def listen(self, port):
        self.listeners[port] = asyncio.Queue()
        return self.listeners[port]

    async def dial(self, port):
        self.next_port += 1
        stream = self.streams[self.next_port, port] = FakeStream(self, self.next_port, port)
        stream.control(REQUEST)
        await stream.wait(lambda: stream.is_open or stream.was_reset)
        if stream.was_reset:
            raise ConnectionResetError
        return stream


class FakeStream:
    """A connected socket in the guest."""

    def __init__(self, guest, local, remote):
        self.guest, self.local, self.remote = guest, local, remote
        self.is_open = self.was_reset = False
        self.shut = self.peer_shut = 0
        self.buffer = bytearray()
        self.received = self.taken = self.told = 0
        self.sent = self.acknowledged = self.credit = 0
        self.pending = memoryview(b"")
        self.max_buffered = 0
        self.changed = asyncio.Event()

    async def wait(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def control(self, op, flags=0):
        self.told = self.taken
        self.guest.send_header(self.local, self.remote, op, flags=flags, fwd_cnt=self.taken & 0xFFFFFFFF)

    def receive(self, op, flags, buf_alloc, fwd_cnt, payload):
        self.changed.set()
        if op == RST:
            self.end(reset=True)
            return
        self.credit = buf_alloc
        self.acknowledged += (fwd_cnt - self.acknowledged) & 0xFFFFFFFF
        assert self.acknowledged <= self.sent
        if op == RESPONSE:
            self.is_open = True
        elif op == RW:
            assert self.is_open and payload and not self.peer_shut & NO_SEND
            self.buffer += payload
            self.received += len(payload)
            self.max_buffered = max(self.max_buffered, len(self.buffer))
            assert len(self.buffer) <= BUFFER, "the host ignores credit"
        elif op == CREDIT_REQUEST:
            self.control(CREDIT_UPDATE)
        elif op == SHUTDOWN:
            self.peer_shut |= flags
            if self.peer_shut == 3 and not self.buffer:
                self.control(RST)
                self.end()
        elif op == REQUEST:
            raise AssertionError("the host asked twice")

    def push(self):
        """Send what fits into credit and free slots."""
        free = self.guest.rings[TX].free
        while self.pending and free:
            room = min(self.credit - (self.sent - self.acknowledged), PACKET, len(self.pending))
            if room <= 0:
                return
            piece, self.pending = self.pending[:room], self.pending[room:]
            self.sent += room
            self.told = self.taken
            guest, forwarded = self.guest, self.taken & 0xFFFFFFFF
            fields = (guest.cid, 2, self.local, self.remote, room, 1, RW, 0, BUFFER, forwarded)
            guest.put_packet(HEADER.pack(*fields), bytes(piece))
            self.changed.set()

    @property
    def is_broken(self):
        return self.was_reset or bool(self.peer_shut & NO_RECEIVE)

    async def send(self, data):
        """Return when all is in the ring."""
        assert not self.pending
        if self.is_broken:
            raise BrokenPipeError
        self.pending = memoryview(data)
        self.guest.flush()
        await self.wait(lambda: not self.pending or self.is_broken)
        if self.pending:
            self.pending = memoryview(b"")
            raise BrokenPipeError

    async def receive_some(self, limit=1 << 18):
        """Empty at end of file."""
        await self.wait(lambda: self.buffer or self.peer_shut & NO_SEND or self.was_reset or not self.is_open)
        data = bytes(self.buffer[:limit])
        del self.buffer[:limit]
        self.taken += len(data)
        if BUFFER - (self.taken - self.told) < PACKET and self.is_open:
            self.control(CREDIT_UPDATE)
        return data

    def shutdown(self, how):
        self.shut |= how
        self.control(SHUTDOWN, self.shut)

    def close(self):
        """As Linux: RST where the peer closed first, else SHUTDOWN and wait for the peer's RST."""
        if not self.is_open:
            return
        if self.peer_shut == 3:
            self.control(RST)
            self.end()
        elif self.shut != 3:
            self.shutdown(3)

    def end(self, reset=False):
        self.was_reset |= reset
        self.is_open = False
        self.guest.streams.pop((self.local, self.remote), None)
        self.changed.set()
