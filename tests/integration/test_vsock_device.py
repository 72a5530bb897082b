"""An end's device in a real machine over its life: pauses, unplugging, a new device, a killed QEMU."""

import asyncio
import contextlib
import os
import signal

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.vsock.kernel import KernelEnd
from hyper_kernel.vsock.probe import find_missing_for_kernel_end
from hyper_kernel.vsock.user import UserEnd
from tests.contract import vsock_linux
from tests.contract.vsock_peers import LinuxPeer
from tests.fakes.open_files import assert_no_more_open, count_open

PORT = 3000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    if missing := vsock_linux.find_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("vsock-linux")
    vsock_linux.build(folder)
    return folder


@pytest.fixture(params=[UserEnd, KernelEnd])
def run(request, files, tmp_path):
    """Runs ``work(end, machine)``."""
    if request.param is KernelEnd and (missing := find_missing_for_kernel_end()):
        pytest.skip(missing)

    async def with_machine(work):
        violations = []
        end = request.param(on_violation=violations.append)
        async with asyncio.timeout(200), vsock_linux.machine(end, files, tmp_path) as machine:
            await work(end, machine)
        assert not violations

    before = count_open()
    yield lambda work: asyncio.run(with_machine(work))
    assert_no_more_open(before)


async def open_echo(end, peer, port):
    await peer.listen(port)
    sock = await end.connect(port)
    await (await peer.accept(port)).echo()
    return sock


async def check_echo(sock, data):
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    assert await loop.sock_recv(sock, 100) == data


async def wait_end(sock):
    with contextlib.suppress(ConnectionError):
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""


async def until_free(machine, command, arguments):
    """Repeat a command until the guest has let go of the device; the driver offers no wait for DEVICE_DELETED."""
    while True:
        try:
            return await machine._execute(command, arguments)
        except HostError as exc:
            assert "busy" in str(exc) or "process of unplug" in str(exc)
        await asyncio.sleep(0.01)


async def unplug(end, machine):
    await machine._execute("device_del", {"id": "vsock0"})
    if isinstance(end, UserEnd):
        await until_free(machine, "chardev-remove", {"id": "vsock"})
    else:
        while "vsock0" in str(await machine._execute("qom-list", {"path": "/machine/peripheral"})):
            await asyncio.sleep(0.01)


def test_streams_outlive_pauses(run):
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

    run(work)


def test_a_device_goes_and_another_comes(run):
    async def work(end, machine):
        listener = end.listen(PORT)
        for number in range(3):
            peer = await LinuxPeer.meet(end)
            dial = asyncio.create_task(peer.dial(PORT))
            (await listener.accept()).close()
            await dial
            with await open_echo(end, peer, PORT + 1 + number) as sock:
                await check_echo(sock, b"before")
                await unplug(end, machine)
                await wait_end(sock)
            await peer.close()
            await machine.plug_vsock(end.device())

    run(work)


def test_a_killed_qemu_ends_streams(run):
    async def work(end, machine):
        peer = await LinuxPeer.meet(end)
        with await open_echo(end, peer, PORT) as sock:
            os.kill(machine.pid, signal.SIGKILL)
            await wait_end(sock)
        await peer.close()

    run(work)
