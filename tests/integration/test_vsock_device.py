"""The user end's device in a real machine over its life: pauses, unplugging, a new device, a killed QEMU."""

import asyncio
import os
import signal

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.vsock.end import RefusedError
from hyper_kernel.vsock.user import UserEnd
from tests.contract import vsock_linux
from tests.contract.vsock_peers import LinuxPeer

PORT = 3000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    if missing := vsock_linux.find_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("vsock-linux")
    vsock_linux.build(folder)
    return folder


def run(work, files, folder):
    async def with_machine():
        violations = []
        end = UserEnd(on_violation=violations.append)
        async with asyncio.timeout(200), vsock_linux.machine(end, files, folder) as machine:
            await work(end, machine)
        assert not violations

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(with_machine())
    assert set(os.listdir("/proc/self/fd")) <= before


async def open_echo(end, peer, port):
    await peer.listen(port)
    sock = await end.connect(port)
    await (await peer.accept(port)).echo()
    return sock


async def check_echo(sock, data):
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    assert await loop.sock_recv(sock, 100) == data


async def unplug(machine):
    await machine._execute("device_del", {"id": "vsock0"})
    while True:
        try:
            await machine._execute("chardev-remove", {"id": "vsock"})
            return
        except HostError as exc:  # busy until the guest has let go of the device
            assert "busy" in str(exc)
        await asyncio.sleep(0.01)  # the driver offers no wait for DEVICE_DELETED


def test_streams_outlive_pauses(files, tmp_path):
    async def work(end, machine):
        peer = await LinuxPeer.meet(end)
        with await open_echo(end, peer, PORT) as sock:
            for number in range(10):
                data = b"while paused %d" % number
                await machine._execute("stop")
                await asyncio.get_running_loop().sock_sendall(sock, data)
                await machine.resume()
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == data
        await peer.close()

    run(work, files, tmp_path)


def test_a_device_goes_and_another_comes(files, tmp_path):
    async def work(end, machine):
        listener = end.listen(PORT)
        for number in range(3):
            peer = await LinuxPeer.meet(end)
            dial = asyncio.create_task(peer.dial(PORT))
            (await listener.accept()).close()
            await dial
            with await open_echo(end, peer, PORT + 1 + number) as sock:
                await check_echo(sock, b"before")
                await unplug(machine)
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            with pytest.raises(RefusedError):
                await end.connect(PORT)
            await peer.close()
            await machine.plug_vsock(end.device())

    run(work, files, tmp_path)


def test_a_killed_qemu_ends_streams(files, tmp_path):
    async def work(end, machine):
        peer = await LinuxPeer.meet(end)
        with await open_echo(end, peer, PORT) as sock:
            os.kill(machine.pid, signal.SIGKILL)
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await peer.close()

    run(work, files, tmp_path)
