"""What every vsock end promises, with programs in a fake guest and in a real one.

The whole suite of one end runs on one event loop with one guest: a real one takes seconds to boot.
"""

import asyncio
import contextlib
import hashlib
import itertools
import socket

import pytest

from hyper_kernel.errors import ConflictError, GuestError
from hyper_kernel.vsock.end import RefusedError
from hyper_kernel.vsock.kernel import KernelEnd
from hyper_kernel.vsock.probe import find_missing_for_kernel_end
from hyper_kernel.vsock.user import UserEnd
from tests.contract import vsock_linux
from tests.contract.vsock_peer_guest import pattern
from tests.contract.vsock_peers import FakePeer, LinuxPeer
from tests.fakes.open_files import assert_no_more_open, count_open
from tests.fakes.vsock_guest import FakeGuest

#: Bytes that may hide between a writer and a reader who does not read: both sides' credit and their sockets' buffers.
MAX_HIDDEN = 4 << 20
PORTS = itertools.count(2000)


class Side:
    """An end, programs in its guest, and the loop they live on."""

    def __init__(self, runner, end, peer):
        self.runner, self.end, self.peer = runner, end, peer
        self.loop = runner.get_loop()

    def run(self, work):
        self.runner.run(asyncio.wait_for(work(self), 120))

    async def dialled(self):
        """A stream that the host dialled: its host socket, its guest stream."""
        port = next(PORTS)
        await self.peer.listen(port)
        sock = await self.end.connect(port)
        return sock, await self.peer.accept(port)

    async def accepted(self):
        """A stream that the guest dialled: its host socket, its guest stream."""
        port = next(PORTS)
        listener = self.end.listen(port)
        dial = asyncio.create_task(self.peer.dial(port))
        sock = await listener.accept()
        listener.close()
        return sock, await dial

    async def send(self, sock, data):
        await self.loop.sock_sendall(sock, data)

    async def receive(self, sock, count):
        data = b""
        while len(data) < count:
            data += (part := await self.loop.sock_recv(sock, count - len(data)))
            assert part, f"end of file after {len(data)} of {count} bytes"
        return data

    async def at_end(self, sock):
        try:
            return await self.loop.sock_recv(sock, 1) == b""
        except ConnectionError:
            return True


async def start_fake(stack, _files, _folder):
    end = UserEnd()
    guest = await FakeGuest(end).plug()
    stack.push_async_callback(end.close)
    stack.callback(guest.hang_up)
    return end, FakePeer(guest)


async def start_linux(make, stack, files, folder):
    end = make()
    await stack.enter_async_context(vsock_linux.machine(end, files, folder))
    peer = await LinuxPeer.meet(end)
    stack.push_async_callback(peer.close)
    return end, peer


SIDES = {
    "user-fake": start_fake,
    "user-linux": lambda *arguments: start_linux(UserEnd, *arguments),
    "kernel-linux": lambda *arguments: start_linux(KernelEnd, *arguments),
}


@pytest.fixture(scope="session")
def linux_files(tmp_path_factory):
    if missing := vsock_linux.find_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("vsock-linux")
    vsock_linux.build(folder)
    return folder


@pytest.fixture(scope="module", params=SIDES)
def side(request, tmp_path_factory):
    if request.param == "kernel-linux" and (missing := find_missing_for_kernel_end()):
        pytest.skip(missing)
    files = request.getfixturevalue("linux_files") if request.param.endswith("linux") else None
    before = count_open()
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            end, peer = runner.run(SIDES[request.param](stack, files, tmp_path_factory.mktemp("vsock")))
            yield Side(runner, end, peer)
        finally:
            runner.run(stack.aclose())
    assert_no_more_open(before)


@pytest.fixture(params=["dialled", "accepted"])
def opened(request, side):
    """How the test's stream came to be; closed after it."""

    async def open_stream(side):
        return await getattr(side, request.param)()

    return open_stream


def test_bytes_go_both_ways(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        with sock:
            assert isinstance(sock, socket.socket)
            assert sock.gettimeout() == 0
            await side.send(sock, b"from the host")
            assert await stream.receive(100) == b"from the host"
            await stream.send(b"from the guest")
            assert await side.receive(sock, 14) == b"from the guest"
        assert await stream.receive(100) == b""
        await stream.close()

    side.run(work)


def test_the_host_half_closes(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        with sock:
            await side.send(sock, b"question")
            sock.shutdown(socket.SHUT_WR)
            assert await stream.receive(100) == b"question"
            assert await stream.receive(100) == b""
            await stream.send(b"answer")
            assert await side.receive(sock, 6) == b"answer"
            await stream.close()
            assert await side.at_end(sock)

    side.run(work)


def test_the_guest_half_closes(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        with sock:
            await stream.send(b"question")
            await stream.shutdown("send")
            assert await side.receive(sock, 8) == b"question"
            assert await side.at_end(sock)
            await side.send(sock, b"answer")
            assert await stream.receive(100) == b"answer"
        assert await stream.receive(100) == b""
        await stream.close()

    side.run(work)


def test_a_guest_that_closes_ends_the_hosts_socket(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        with sock:
            await stream.send(b"last words")
            await stream.close()
            assert await side.receive(sock, 10) == b"last words"
            assert await side.at_end(sock)
            with pytest.raises(OSError):
                await side.send(sock, b"too late")

    side.run(work)


def test_what_the_host_wrote_before_it_closed_arrives(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        count = 100_000
        with sock:
            await side.send(sock, pattern(count))
        assert await stream.receive_digest() == (count, hashlib.sha256(pattern(count)).hexdigest())
        await stream.close()

    side.run(work)


def test_a_guest_port_without_listener_refuses(side):
    async def work(side):
        with pytest.raises(RefusedError, match="vsock port"):
            await side.end.connect(next(PORTS))

    side.run(work)


def test_a_host_port_without_listener_refuses(side):
    async def work(side):
        port = next(PORTS)
        with pytest.raises(ConnectionError):
            await side.peer.dial(port)
        listener = side.end.listen(port)
        with pytest.raises(ConflictError):
            side.end.listen(port)
        waiting = asyncio.create_task(listener.accept())
        await asyncio.sleep(0)
        listener.close()
        listener.close()
        with pytest.raises(GuestError, match="closed"):
            await waiting
        with pytest.raises(ConnectionError):
            await side.peer.dial(port)

    side.run(work)


def test_a_host_that_does_not_read_stops_the_guest(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        with sock:
            count = await stream.fill()
            assert 1 << 16 <= count <= MAX_HIDDEN
            assert await side.receive(sock, count) == pattern(count)
            await stream.close()
            assert await side.at_end(sock)

    side.run(work)


def test_a_guest_that_does_not_read_stops_the_host(side, opened):
    async def work(side):
        sock, stream = await opened(side)
        fence_sock, fence = await side.dialled()
        await fence.echo()
        sent, before = 0, -1
        with sock, fence_sock:
            while sent != before:
                before = sent
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += sock.send(pattern(65536, sent))
                assert sent <= MAX_HIDDEN
                # What was under way has arrived once this came back.
                await side.send(fence_sock, b"?")
                await side.receive(fence_sock, 1)
            sock.shutdown(socket.SHUT_WR)
            assert await stream.receive_digest() == (sent, hashlib.sha256(pattern(sent)).hexdigest())
            await stream.close()

    side.run(work)


def test_many_streams_at_once(side):
    async def echo_once(side, number):
        sock, stream = await (side.dialled() if number % 2 else side.accepted())
        await stream.echo()
        size = 20_000 + number
        with sock:
            _, back = await asyncio.gather(side.send(sock, pattern(size, number)), side.receive(sock, size))
            assert back == pattern(size, number)
            sock.shutdown(socket.SHUT_WR)
            assert await side.at_end(sock)

    async def work(side):
        await asyncio.gather(*(echo_once(side, number) for number in range(40)))

    side.run(work)


@pytest.mark.parametrize("mib", [24])
def test_much_from_the_guest(side, mib):
    async def work(side):
        count = mib << 20
        sock, stream = await side.dialled()
        digest, got = hashlib.sha256(), 0
        with sock:
            sending = asyncio.create_task(stream.send_pattern(count))
            while got < count:
                data = await side.loop.sock_recv(sock, 1 << 18)
                digest.update(data)
                got += len(data)
            await sending
            await stream.close()
            assert await side.at_end(sock)
        assert digest.hexdigest() == hashlib.sha256(pattern(count)).hexdigest()

    side.run(work)


@pytest.mark.parametrize("mib", [24])
def test_much_from_the_host(side, mib):
    async def work(side):
        count = mib << 20
        sock, stream = await side.dialled()
        with sock:
            receiving = asyncio.create_task(stream.receive_digest())
            for start in range(0, count, 1 << 20):
                await side.send(sock, pattern(1 << 20, start))
            sock.shutdown(socket.SHUT_WR)
            assert await receiving == (count, hashlib.sha256(pattern(count)).hexdigest())
            await stream.close()

    side.run(work)
