"""A guest that lies in its rings, and a QEMU that was taken over, against the device that the shim serves.

``tests/fakes/vsock_guest.py`` plays both. What Linux would never send from a program in a guest is sent here.
"""

import asyncio
import contextlib
import os
import resource
import socket
import struct

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.vsock.connection import BUFFER
from hyper_kernel.vsock.end import RefusedError, ViolationError
from hyper_kernel.vsock.user import UserEnd
from tests.fakes.open_files import assert_no_more_open, count_open
from tests.fakes.vsock_guest import BASE, HEADER, NEXT, REQUEST, RESPONSE, RST, RW, RX, SHUTDOWN, TX, WRITE, FakeGuest

PORT = 1025
#: In steps of the loop: none of this waits for anything.
_PATIENCE_S = 20


def play(work):
    """Run ``work(end, guest, violations)``: no descriptor, no failed callback, no busy loop may be left."""

    async def with_guest():
        failures, violations = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        end = UserEnd(on_violation=violations.append)
        guest = await FakeGuest(end).plug()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await work(end, guest, violations)
        finally:
            await end.close()
            guest.hang_up()
        assert not failures, failures

    before = count_open()
    asyncio.run(with_guest())
    assert_no_more_open(before)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


async def open_stream(end, guest):
    guest.listen(PORT)
    return await end.connect(PORT), await guest.listeners[PORT].get()


def describe(address, length, flags=0, follower=0):
    return address, length, flags, follower


#: What a ring says, and what it is called: descriptors, then the heads that are offered, then the index.
LIES = {
    "a loop": ([describe(BASE, 44, NEXT, 1), describe(BASE, 44, NEXT, 0)], [0], None, "form a loop"),
    "a loop of one": ([describe(BASE, 44, NEXT, 0)], [0], None, "form a loop"),
    "a wild descriptor": ([], [60000], None, "descriptor 60000"),
    "a wild follower": ([describe(BASE, 44, NEXT, 65535)], [0], None, "descriptor 65535"),
    "a huge length": ([describe(BASE, 0xFFFFFFFF)], [0], None, "more than"),
    "huge lengths together": ([describe(BASE, 1 << 19, NEXT, at + 1) for at in range(4)], [0], None, "more than"),
    "memory that it has not": ([describe(0, 44)], [0], None, "outside its memory"),
    "memory beyond its end": ([describe(BASE + (16 << 20) - 4, 44)], [0], None, "outside its memory"),
    "an address that wraps": ([describe((1 << 64) - 8, 44)], [0], None, "outside its memory"),
    "a wild index": ([], [], 40000, "buffers in a queue"),
    "an indirect table": ([describe(BASE, 64, 4)], [0], None, "indirect"),
    "a buffer to write to": ([describe(BASE, 44, WRITE)], [0], None, "wrong direction"),
    "no room for a header": ([describe(BASE, 43)], [0], None, "too few"),
    "nothing": ([describe(BASE, 0)], [0], None, "too few"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_a_ring_ends_the_device_by_name(lie):
    descriptors, heads, index, words = LIES[lie]

    async def work(end, guest, violations):
        ring = guest.rings[TX]
        for number, fields in enumerate(descriptors):
            ring.put(number, *fields)
        for head in heads:
            ring.offer(head)
        if index is not None:
            struct.pack_into("<H", guest.memory, ring.avail + 2, index)
        os.eventfd_write(ring.kick, 1)
        await until(lambda: violations)
        assert words in str(violations[0])
        with pytest.raises(ViolationError):
            await end.connect(PORT)

    play(work)


@pytest.mark.parametrize("state", ["asked", "open", "sending", "held", "half closed", "closing", "closed"])
@pytest.mark.parametrize("op", [RST, SHUTDOWN, REQUEST, RESPONSE])
def test_a_stream_can_be_cut_off_in_every_state(state, op):
    async def work(end, guest, violations):
        loop = asyncio.get_running_loop()
        sock = None
        if state == "asked":
            arrived = []
            guest.receive = lambda header, payload: arrived.append(header)
            dial = asyncio.create_task(end.connect(5))
            await until(lambda: arrived)
            local, remote = 5, arrived[0][2]
            del guest.receive
        else:
            sock, stream = await open_stream(end, guest)
            local, remote = stream.local, stream.remote
        if state == "sending":
            guest.receive = lambda header, payload: None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(loop.sock_sendall(sock, bytes(4 << 20)), 0.05)
            del guest.receive
        elif state == "held":
            await stream.send(bytes(BUFFER))
        elif state == "half closed":
            sock.shutdown(socket.SHUT_WR)
            await stream.wait(lambda: stream.peer_shut)
        elif state == "closing":
            guest.receive = lambda header, payload: None
            sock.close()
            await asyncio.sleep(0)
            del guest.receive
        elif state == "closed":
            sock.close()
            await stream.wait(lambda: not stream.is_open)
        sent = getattr(stream, "sent", 0) if sock else 0
        for _ in range(3):
            guest.send_header(local, remote, op, flags=3, fwd_cnt=0)
        await until(lambda: not guest.outbox and guest.rings[TX].offered == guest.rings[TX].seen)
        if state == "asked":
            with contextlib.suppress(RefusedError):
                sock = await dial if op != SHUTDOWN else None
            dial.cancel()
        if sock:
            with contextlib.suppress(OSError):
                while await loop.sock_recv(sock, 1 << 16):
                    pass
            sock.close()
        assert sent >= 0 and not violations
        guest.streams.clear()
        # The end lives on.
        sock, stream = await open_stream(end, guest)
        await stream.send(b"alive")
        assert await loop.sock_recv(sock, 9) == b"alive"
        sock.close()

    play(work)


def test_a_guest_that_reads_nothing_holds_up_only_who_writes_to_it():
    async def work(end, guest, violations):
        loop = asyncio.get_running_loop()
        socks = []
        for _ in range(8):
            sock, stream = await open_stream(end, guest)
            stream.receive = lambda *packet: None
            socks.append(sock)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for sock in socks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(loop.sock_sendall(sock, bytes(8 << 20)), 0.05)
        other, stream = await open_stream(end, guest)
        await loop.sock_sendall(other, b"through")
        assert await stream.receive_some() == b"through"
        # What is written waits with the writer: 8 MiB of it here, once.
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 32
        for sock in (*socks, other):
            sock.close()
        assert not violations

    play(work)


def test_a_program_that_reads_nothing_makes_the_guest_wait():
    async def work(end, guest, violations):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        socks = []
        for _ in range(8):
            sock, stream = await open_stream(end, guest)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stream.send(bytes(8 << 20)), 0.05)
            assert stream.sent <= 2 * BUFFER + (1 << 20)
            socks.append(sock)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 32
        for sock in socks:
            sock.close()
        assert not violations

    play(work)


def test_packets_to_streams_that_are_none_are_bounded():
    """A flood of all kinds of packets to all ports, from a guest that takes no answer."""

    async def work(end, guest, violations):
        guest.rings[RX].offer = lambda head: None
        for number in range(3000):
            guest.outbox.append((HEADER.pack(3, 2, number % 50, number % 7, 0, 1, 1 + number % 7, 3, 0, 0), b""))
        guest.flush()
        for _ in range(200):
            await asyncio.sleep(0)
        mux = end._plugged.mux
        assert len(mux._refusals) < 400 and len(mux._ready) <= len(mux._streams)
        assert not violations

    play(work)


def make_pipe(end):
    """A pipe of which one end is closed: readable, or failing, for ever."""
    fds = os.pipe()
    os.close(fds[end])
    return fds[1 - end]


FOREIGN = {
    "a pipe at its end": lambda: make_pipe(1),
    "a pipe nobody reads": lambda: make_pipe(0),
    "a file": lambda: os.open("/dev/null", os.O_RDWR),
    "a path": lambda: os.open("/", os.O_PATH),
    "a socket": lambda: socket.socket().detach(),
}


@pytest.mark.parametrize("request_number", [12, 13], ids=["kick", "call"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_qemu_that_was_taken_over_cannot_keep_the_shim_busy(what, request_number):
    async def work(end, guest, violations):
        fd = FOREIGN[what]()
        await guest.front.tell(request_number, struct.pack("<Q", RX), [fd])
        os.close(fd)
        await until(lambda: end._plugged is None)
        with pytest.raises(HostError, match="no event counter"):
            await end.connect(PORT)

    play(work)


def test_descriptors_of_one_message_are_bounded():
    async def work(end, guest, violations):
        fds = [os.eventfd(0) for _ in range(8)]
        with contextlib.suppress(ConnectionError):
            for byte in struct.pack("<III", 12, 1, 8):
                socket.send_fds(guest.front.sock, [bytes([byte])], fds)
                await asyncio.sleep(0)
        for fd in fds:
            os.close(fd)
        await until(lambda: end._plugged is None)
        with pytest.raises(HostError, match="over 8 file descriptors"):
            await end.connect(PORT)

    play(work)


def test_answers_that_nobody_reads_end_the_device():
    async def work(end, guest, violations):
        with contextlib.suppress(OSError):
            while end._plugged:
                await guest.front.tell(1)
                await asyncio.sleep(0)
        with pytest.raises(HostError, match="does not read"):
            await end.connect(PORT)

    play(work)


@pytest.mark.parametrize("row", [(BASE, 1 << 63, (1 << 64) - 4096, 0), ((1 << 64) - 1, 2, BASE, 0)])
def test_memory_beyond_the_address_space_is_refused(row):
    async def work(end, guest, violations):
        await guest.front.tell(5, struct.pack("<IIQQQQ", 1, 0, *row))
        await until(lambda: end._plugged is None)
        with pytest.raises(HostError, match="beyond the address space"):
            await end.connect(PORT)

    play(work)


def test_stray_data_is_refused_at_once():
    async def work(end, guest, violations):
        answers = []
        guest.receive = lambda header, payload: answers.append(header)
        guest.send_header(9, 9, RW, length=4, payload=b"data")
        await until(lambda: answers)
        assert answers[0][6] == RST and not violations

    play(work)
