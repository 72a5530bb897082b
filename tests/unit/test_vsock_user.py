"""The user end whole, with a fake guest: unplug, pause, limits, and a guest that breaks the rules."""

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.errors import BusyError, GuestError, HostError
from hyper_kernel.vsock import mux as mux_module
from hyper_kernel.vsock.end import RefusedError, ViolationError
from hyper_kernel.vsock.listener import BACKLOG
from hyper_kernel.vsock.mux import MAX_REFUSALS, MAX_STREAMS
from hyper_kernel.vsock.user import UserEnd
from tests.fakes.open_files import assert_no_more_open, count_open
from tests.fakes.vsock_guest import BASE, BUFFER, HEADER, NEXT, REQUEST, RST, RW, RX, SHUTDOWN, TX, FakeGuest

PORT = 1025


def run(work):
    """Run ``work(end, guest, violations)``; no file descriptor and no failed callback may be left."""

    async def with_guest():
        failures, violations = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        end = UserEnd(on_violation=violations.append)
        guest = await FakeGuest(end).plug()
        try:
            async with asyncio.timeout(60):
                await work(end, guest, violations)
        finally:
            await end.close()
            await end.close()
            guest.hang_up()
        assert not failures

    before = count_open()
    asyncio.run(with_guest())
    assert_no_more_open(before)


async def receive(sock, count):
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < count and (part := await loop.sock_recv(sock, count - len(data))):
        data += part
    return data


async def is_at_end(sock):
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            pass
    return True


async def open_stream(end, guest, port=PORT):
    if port not in guest.listeners:
        guest.listen(port)
    sock = await end.connect(port)
    return sock, await guest.listeners[port].get()


async def until(condition):
    """Let the event loop go round until something is so; the test's deadline bounds it."""
    while not condition():
        await asyncio.sleep(0)


def test_the_guest_learns_its_address():
    async def work(end, guest, _):
        assert guest.cid == end.cid == 3
        assert "streams=0" in repr(end)

    run(work)


def test_unplug_ends_streams_and_keeps_listeners():
    async def work(end, guest, violations):
        listener = end.listen(7)
        sock, stream = await open_stream(end, guest)
        await stream.send(b"before")
        await until(lambda: guest.rings[TX].offered == guest.rings[TX].seen)
        dial = asyncio.create_task(end.connect(99))
        await guest.unplug()
        with pytest.raises(RefusedError):
            await dial
        assert await receive(sock, 100) == b"before"
        sock.close()
        with pytest.raises(RefusedError, match="no vsock device now"):
            await end.connect(PORT)
        await guest.plug()
        stream = await guest.dial(7)
        with await listener.accept() as sock:
            await stream.send(b"again")
            assert await receive(sock, 5) == b"again"
        assert not violations

    run(work)


def test_a_new_device_replaces_one_that_was_never_unplugged():
    async def work(end, guest, _):
        sock, _stream = await open_stream(end, guest)
        old = guest.front
        guest.front = None
        for ring in guest.rings:
            asyncio.get_running_loop().remove_reader(ring.call)
            os.close(ring.call)
            os.close(ring.kick)
        guest.streams.clear()
        await guest.plug()
        assert await is_at_end(sock)
        sock.close()
        assert await asyncio.get_running_loop().sock_recv(old.sock, 1) == b""
        old.sock.close()
        sock, _stream = await open_stream(end, guest)
        sock.close()

    run(work)


def test_a_pause_keeps_streams():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        bases = [await guest.stop(index) for index in (RX, TX)]
        await asyncio.get_running_loop().sock_sendall(sock, b"while paused")
        for index, base in enumerate(bases):
            await guest.start(index, base)
        assert await stream.receive_some() == b"while paused"
        await stream.send(b"still here")
        assert await receive(sock, 10) == b"still here"
        sock.close()

    run(work)


def test_a_driver_that_starts_afresh_ends_streams():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        await stream.send(b"x")
        for index in (RX, TX):
            assert await guest.stop(index)
        for ring in guest.rings:
            asyncio.get_running_loop().remove_reader(ring.call)
            os.close(ring.call)
            os.close(ring.kick)
        guest.streams.clear()
        guest.load_driver()
        for index in (RX, TX):
            await guest.start(index)
        assert await receive(sock, 2) == b"x"
        sock.close()
        sock, stream = await open_stream(end, guest)
        sock.close()

    run(work)


def test_a_guest_that_resets_ends_the_stream_after_what_it_sent():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        await stream.send(b"last")
        stream.control(RST)
        stream.end()
        assert await receive(sock, 100) == b"last"
        with pytest.raises(OSError):
            sock.send(b"x")
        sock.close()

    run(work)


def test_a_program_that_closes_with_bytes_unread_resets_the_guest():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        await stream.send(b"nobody reads this")
        await receive(sock, 1)
        sock.close()
        await stream.wait(lambda: stream.was_reset)
        assert "streams=0 draining=0" in repr(end)

    run(work)


def test_a_program_that_stops_reading_tells_the_guest():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        sock.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError):
            while True:
                await stream.send(bytes(1000))
        await asyncio.get_running_loop().sock_sendall(sock, b"but it writes")
        assert await stream.receive_some() == b"but it writes"
        sock.close()
        assert await stream.receive_some() == b""

    run(work)


def test_a_guest_that_stops_reading_breaks_the_programs_pipe():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        stream.shutdown(1)
        with pytest.raises(BrokenPipeError):
            while True:
                await asyncio.get_running_loop().sock_sendall(sock, bytes(1000))
        await stream.send(b"but it writes")
        assert await receive(sock, 13) == b"but it writes"
        sock.close()

    run(work)


def test_a_half_closed_stream_learns_of_the_close():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        sock.shutdown(socket.SHUT_WR)
        assert await stream.receive_some() == b""
        assert stream.peer_shut == 2
        sock.close()
        await stream.wait(lambda: not stream.is_open)
        await until(lambda: "streams=0 draining=0" in repr(end))

    run(work)


def test_a_guest_that_does_not_agree_to_a_close_is_reset(monkeypatch):
    monkeypatch.setattr(mux_module, "CLOSE_S", 0)

    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        stream.buffer += b"unread, so Linux does not answer"
        sock.close()
        await stream.wait(lambda: stream.was_reset)
        assert stream.peer_shut == 3
        assert "streams=0" in repr(end)

    run(work)


def test_a_guest_that_does_not_answer_in_time():
    async def work(end, guest, _):
        guest.receive = lambda header, payload: None
        with pytest.raises(GuestError, match=r"did not answer on vsock port 5 within 0\.01 s") as caught:
            await end.connect(5, deadline_s=0.01)
        assert caught.value.hint
        del guest.receive
        sock, _stream = await open_stream(end, guest)
        sock.close()

    run(work)


def test_who_answers_too_late_is_told():
    async def work(end, guest, _):
        arrived = []
        guest.receive = lambda header, payload: arrived.append(header)
        dial = asyncio.create_task(end.connect(5))
        await until(lambda: arrived)
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        await until(lambda: len(arrived) > 1)
        assert [header[6] for header in arrived] == [REQUEST, RST]

    run(work)


def test_streams_are_limited():
    async def work(end, guest, violations):
        socks = [(await open_stream(end, guest))[0] for _ in range(MAX_STREAMS)]
        with pytest.raises(BusyError, match="256"):
            await end.connect(PORT)
        listener = end.listen(7)
        with pytest.raises(ConnectionResetError):
            await guest.dial(7)
        socks.pop().close()
        await until(lambda: f"streams={MAX_STREAMS - 1} draining=0" in repr(end))
        await guest.dial(7)
        (await listener.accept()).close()
        for sock in socks:
            sock.close()
        assert not violations

    run(work)


def test_what_a_guest_left_unread_counts_until_it_is_read():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        await stream.send(bytes(BUFFER))
        await stream.send(bytes(BUFFER // 2))
        stream.control(RST)
        stream.end()
        await until(lambda: "streams=0 draining=1" in repr(end))
        assert len(await receive(sock, 2 * BUFFER)) == BUFFER + BUFFER // 2
        assert "draining=0" in repr(end)
        sock.close()

    run(work)


def test_a_full_backlog_refuses():
    async def work(end, guest, _):
        listener = end.listen(7)
        streams = [await guest.dial(7) for _ in range(BACKLOG)]
        assert f"waiting={BACKLOG}" in repr(listener)
        with pytest.raises(ConnectionResetError):
            await guest.dial(7)
        listener.close()
        for stream in streams:
            assert await stream.receive_some() == b""

    run(work)


def test_a_guest_that_takes_no_refusals_is_not_read():
    async def work(end, guest, violations):
        withheld, give = [], guest.rings[RX].offer
        guest.rings[RX].offer = withheld.append
        for number in range(3 * MAX_REFUSALS):
            guest.send_header(10_000 + number, 9, RW)
        refusals = end._plugged.mux._refusals
        await until(lambda: len(withheld) == 64 and len(guest.outbox) and len(refusals) >= MAX_REFUSALS)
        assert len(refusals) < MAX_REFUSALS + 64
        guest.rings[RX].offer = give
        for head in withheld:
            give(head)
        guest.rings[RX].notify()
        await until(lambda: not guest.outbox and not refusals)
        sock, _stream = await open_stream(end, guest)
        sock.close()
        assert not violations

    run(work)


def test_packets_for_others_are_refused_and_do_no_harm():
    async def work(end, guest, violations):
        answers = []
        guest.receive = lambda header, payload: answers.append(header)
        fields = [
            (3, 77, 5, 7, 0, 1, REQUEST, 0, 0, 0),
            (99, 2, 5, 7, 0, 1, RW, 0, 0, 0),
            (3, 2, 5, 7, 0, 2, RW, 0, 0, 0),
        ]
        for packet in fields:
            guest.send_raw(HEADER.pack(*packet))
        guest.send_raw(HEADER.pack(99, 2, 5, 7, 0, 1, RST, 0, 0, 0))
        await until(lambda: len(answers) == 3)
        assert [(answer[0], answer[1], answer[5], answer[6]) for answer in answers] == [
            (77, 3, 1, RST),
            (2, 99, 1, RST),
            (2, 3, 2, RST),
        ]
        assert not violations

    run(work)


async def expect_violation(end, guest, violations, words):
    sock, _ = opened = await open_stream(end, guest)
    yield opened
    assert await is_at_end(sock)
    sock.close()
    await until(lambda: violations)
    assert len(violations) == 1
    assert words in str(violations[0])
    with pytest.raises(ViolationError):
        await end.connect(PORT)
    assert "dead" in repr(end)


expect_violation = contextlib.asynccontextmanager(expect_violation)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (bytes(10), "10 bytes, too few"),
        (HEADER.pack(3, 2, 5, 7, 100, 1, RW, 0, 0, 0), "shorter than its payload"),
        (HEADER.pack(3, 2, 5, 7, 0, 1, 200, 0, 0, 0), "unknown operation 200"),
    ],
)
def test_a_malformed_packet_ends_the_device(packet, words):
    async def work(end, guest, violations):
        async with expect_violation(end, guest, violations, words):
            guest.send_raw(packet)

    run(work)


def test_a_guest_that_ignores_credit_ends_the_device():
    async def work(end, guest, violations):
        async with expect_violation(end, guest, violations, "with credit for") as (_, stream):
            stream.credit = 1 << 40
            with contextlib.suppress(BrokenPipeError):
                sending = asyncio.create_task(stream.send(bytes(4 << 20)))
                await until(lambda: violations)
                sending.cancel()

    run(work)


@pytest.mark.parametrize("index", [TX, RX])
def test_a_ring_that_makes_no_sense_ends_the_device(index):
    async def work(end, guest, violations):
        async with expect_violation(end, guest, violations, "buffers in a queue of 128") as (sock, _):
            ring = guest.rings[index]
            struct.pack_into("<H", guest.memory, ring.avail + 2, (ring.seen + 500) & 0xFFFF)
            sock.send(b"x")
            os.eventfd_write(ring.kick, 1)

    run(work)


def test_a_buffer_too_small_for_a_packet_ends_the_device():
    async def work(end, guest, violations):
        async with expect_violation(end, guest, violations, "too small") as (sock, _):
            for slot in range(64):
                guest.rings[RX].put(2 * slot, BASE, 8, 2)
            sock.send(b"x")

    run(work)


def test_a_payload_in_pieces_is_one_packet():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        ring = guest.rings[TX]
        header = HEADER.pack(3, 2, stream.local, stream.remote, 6, 1, RW, 0, BUFFER, 0)
        at = guest.tx_at
        guest.view[at : at + 50] = header + b"pieces"
        cuts = [0, 20, 46, 47, 50]
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            ring.put(100 + number, BASE + at + start, stop - start, NEXT if stop < 50 else 0, 101 + number)
        ring.offer(100)
        ring.notify()
        assert await receive(sock, 6) == b"pieces"
        sock.close()

    run(work)


def test_memory_that_cannot_be_reached_is_the_hosts_fault():
    async def work(end, guest, violations):
        guest.hang_up()
        here = guest.address
        rows = [(BASE, len(guest.memory), here + (1 << 44), 0)]
        with contextlib.suppress(EOFError, ConnectionError):
            guest.address += 1 << 44
            await guest.plug(regions=rows)
        guest.address = here
        await until(lambda: end._plugged is None)
        with pytest.raises(RefusedError):
            await end.connect(PORT)
        assert not violations

    run(work)


def test_nonsense_from_qemu_is_named():
    async def work(end, guest, violations):
        await guest.front.tell(77)
        await until(lambda: end._plugged is None)
        with pytest.raises(HostError, match="vhost-user request 77"):
            await end.connect(PORT)
        assert not violations

    run(work)


HEADERS = st.tuples(
    st.sampled_from([3, 3, 3, 0]),
    st.sampled_from([2, 2, 2, 9]),
    st.sampled_from([PORT, 5]),
    st.sampled_from([7, 49152, 8]),
    st.integers(0, 40),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(1, 7),
    st.integers(0, 3) | st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 100) | st.integers(0, (1 << 32) - 1),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(HEADERS.map(lambda fields: HEADER.pack(*fields) + bytes(fields[4])), max_size=20), st.booleans())
def test_any_packets_are_served_or_are_a_violation(packets, dials):
    async def work(end, guest, violations):
        end.listen(7)
        end._plugged.mux._next_port = 49152
        dial = asyncio.create_task(end.connect(PORT)) if dials else None
        guest.receive = lambda header, payload: None
        await asyncio.sleep(0)
        for packet in packets:
            guest.send_raw(packet)
        ring = guest.rings[TX]
        await until(lambda: violations or struct.unpack_from("<H", guest.memory, ring.used + 2)[0] == ring.offered)
        assert len(violations) <= 1
        if dial:
            dial.cancel()
            for sock in await asyncio.gather(dial, return_exceptions=True):
                if isinstance(sock, socket.socket):
                    sock.close()

    run(work)


def test_much_data_needs_little_memory():
    """Both ways at once, with a program that reads slowly first."""
    count = 128 << 20

    async def read_out(sock):
        loop, left, buffer = asyncio.get_running_loop(), count, bytearray(1 << 18)
        while left:
            left -= await loop.sock_recv_into(sock, buffer)

    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        block = bytes(1 << 20)

        async def guest_sends():
            for _ in range(count >> 20):
                await stream.send(block)

        async def host_sends():
            for _ in range(count >> 20):
                await asyncio.get_running_loop().sock_sendall(sock, block)

        async def guest_reads():
            left = count
            while left:
                left -= len(await stream.receive_some())

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await asyncio.gather(guest_sends(), read_out(sock), host_sends(), guest_reads())
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 16
        assert stream.max_buffered <= BUFFER
        sock.close()

    run(work)


def test_the_guests_end_of_a_stream_is_answered():
    async def work(end, guest, _):
        sock, stream = await open_stream(end, guest)
        stream.close()
        await stream.wait(lambda: not stream.is_open)
        assert await is_at_end(sock)
        sock.close()
        guest.send_header(stream.local, stream.remote, SHUTDOWN, flags=3)
        await until(lambda: "streams=0 draining=0" in repr(end))

    run(work)
