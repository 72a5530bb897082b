"""The splice of Jupyter's channels, over real sockets."""

import asyncio
import socket
import stat

import pytest

from hyper_kernel.channels.splice import CHANNELS, Splice
from hyper_kernel.errors import GuestError, HostError


class FakeKernel:
    """Gives the far side of each dialled stream to the test."""

    def __init__(self):
        self.dialled = asyncio.Queue()

    async def dial(self, channel):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.dialled.put_nowait((channel, ours))
        return theirs


async def with_splice(work, tmp_path):
    kernel = FakeKernel()
    splice = Splice(kernel.dial)
    try:
        await asyncio.wait_for(work(kernel, splice, splice.bind_ipc(tmp_path / "k")), 10)
    finally:
        await splice.close()
    assert list(tmp_path.iterdir()) == []


def run(work, tmp_path):
    asyncio.run(with_splice(work, tmp_path))


async def connect(info, channel):
    return await asyncio.open_unix_connection(f"{info['ip']}-{info[channel + '_port']}")


def test_each_channel_is_dialled_by_name_and_carries_both_ways(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        for channel in CHANNELS:
            reader, writer = await connect(info, channel)
            name, guest = await kernel.dialled.get()
            assert name == channel
            writer.write(b"to the kernel")
            assert await loop.sock_recv(guest, 100) == b"to the kernel"
            await loop.sock_sendall(guest, b"to the client")
            assert await reader.readexactly(13) == b"to the client"
            guest.close()
            assert await reader.read() == b""
            writer.close()

    run(work, tmp_path)


def test_a_half_close_passes_and_the_other_way_goes_on(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        reader, writer = await connect(info, "shell")
        _, guest = await kernel.dialled.get()
        writer.write_eof()
        assert await loop.sock_recv(guest, 1) == b""
        await loop.sock_sendall(guest, b"still here")
        guest.close()
        assert await reader.read() == b"still here"
        writer.close()

    run(work, tmp_path)


def test_only_this_user_may_connect(tmp_path):
    async def work(kernel, splice, info):
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(work, tmp_path)


def test_unlinked_sockets_are_bound_again_and_the_rest_is_kept(tmp_path):
    async def work(kernel, splice, info):
        (tmp_path / "k-1").unlink()
        kept = (tmp_path / "k-2").stat().st_ino
        assert splice.bind_ipc(tmp_path / "k") == info
        assert (tmp_path / "k-2").stat().st_ino == kept
        _, writer = await connect(info, "shell")
        assert (await kernel.dialled.get())[0] == "shell"
        writer.close()

    run(work, tmp_path)


def test_dropping_connections_keeps_the_listeners(tmp_path):
    async def work(kernel, splice, info):
        reader, writer = await connect(info, "iopub")
        await kernel.dialled.get()
        await splice.drop_connections()
        assert await reader.read() == b""
        _, again = await connect(info, "iopub")
        await kernel.dialled.get()
        again.close()
        writer.close()

    run(work, tmp_path)


def test_a_kernel_that_refuses_closes_the_clients_connection(tmp_path):
    async def refuse(channel):
        raise GuestError("nobody listens")

    async def work():
        splice = Splice(refuse)
        info = splice.bind_tcp("127.0.0.1", ())
        reader, writer = await asyncio.open_connection("127.0.0.1", info["hb_port"])
        assert await reader.read() == b""
        writer.close()
        await splice.close()

    asyncio.run(work())


def test_a_slow_client_holds_the_kernel_back(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        _, writer = await connect(info, "iopub")
        _, guest = await kernel.dialled.get()
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                await asyncio.wait_for(loop.sock_sendall(guest, bytes(1 << 20)), 0.3)
                sent += 1 << 20
        assert sent <= 4 << 20
        writer.close()

    run(work, tmp_path)


def test_a_port_in_use_is_a_clear_error_and_old_ports_are_taken_again(tmp_path):
    async def work():
        first, second = Splice(FakeKernel().dial), Splice(FakeKernel().dial)
        info = first.bind_tcp("127.0.0.1", ())
        ports = [info[f"{channel}_port"] for channel in CHANNELS]
        with pytest.raises(HostError, match=f"port {ports[0]}"):
            second.bind_tcp("127.0.0.1", ports)
        await first.close()
        assert second.bind_tcp("127.0.0.1", ports) == info
        await second.close()

    asyncio.run(work())
