"""Sandboxes on the hardware tier: KVM below them, the kernel's vhost-vsock beside them."""

import asyncio
import json
import logging
import os
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from jupyter_client import AsyncKernelClient

from hyper_kernel import wire
from hyper_kernel.daemon.shims import listen
from hyper_kernel.hypervisor import Tier
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB
from hyper_kernel.link import Frames, Link
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths, make_private
from hyper_kernel.qemu import accel
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox.plan import plan_shapes
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.shim.shim import Shim
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, ProcessSpec, SandboxSpec
from hyper_kernel.template.bake import bake_shape
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.kernel import KernelEnd
from hyper_kernel.vsock.probe import open_end
from hyper_kernel.wire import Type


@pytest.fixture
def paths(monkeypatch):
    """This machine's paths; afterwards nothing of a sandbox but its record and logs is left."""
    # An emulated machine's KVM is slower than any that people have, and the host may be busy.
    monkeypatch.setattr(accel, "_DEADLINE_S", 60.0)
    paths = find_paths()
    before = set(os.listdir("/proc/self/fd"))
    yield paths
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not [
        child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    ]
    assert not list((paths.run / "s").iterdir())


class Running:
    """A sandbox whose shim runs on this loop."""

    def __init__(self, paths, spec):
        self.paths = paths
        image = ImageStore(paths.images).get(spec.image)
        name = secrets.token_hex(32)
        spec = replace(spec, memory_mib=DEFAULT_MEMORY_MIB, cpus=DEFAULT_CPUS)  # as hyperd's policy gives
        self.record = Record(id=name, name=name[:12], spec=spec, image_id=image.id, created_s=time.time())
        self.record.save(paths.sandboxes)
        self.socket = paths.sandbox_run(name) / "shim.sock"
        self.records = asyncio.Queue()
        self.control = None

    async def wait_running(self):
        while self.record.state in (State.CREATED, State.BOOTING):
            self.record = Record.from_dict(await self.records.get())
        assert self.record.state is State.RUNNING, self.record.reason
        assert self.record.tier == Tier.HARDWARE

    async def watch(self):
        """The control connection."""
        take = self.records.put_nowait
        self.control = Link(
            await Frames.dial(str(self.socket)), on_event=lambda event: take(event["record"]), peer="the shim"
        )
        take((await self.control.request("watch"))["record"])

    async def open(self, kind, **args):
        frames = await Frames.dial(str(self.socket))
        await frames.send(Type.OPEN, {"kind": kind, **args})
        answer, payload = await frames.receive()
        assert answer is Type.OPENED, payload
        return frames


@asynccontextmanager
async def start(paths, spec, source=None):
    """A sandbox; at the end of the context it must be gone."""
    sandbox = Running(paths, spec)
    make_private(sandbox.socket.parent)
    source = source or ColdSource(Qemu(), open_end)
    shim = asyncio.create_task(Shim(paths, sandbox.record, source, listen(sandbox.socket)).run())
    try:
        await sandbox.watch()
        yield sandbox
        await shim
    finally:
        shim.cancel()
        await asyncio.gather(shim, return_exceptions=True)
        if sandbox.control:
            await sandbox.control.close()
        sandbox.record = Record.load(paths.sandboxes / sandbox.record.id)


async def read_all(frames):
    """Output by kind, and the exit."""
    found = {Type.STDOUT: b"", Type.STDERR: b""}
    async for kind, payload in frames:
        if kind is Type.EXIT:
            frames.close()
            told = wire.parse(kind, payload)
            return found[Type.STDOUT], found[Type.STDERR], {name: told[name] for name in ("code", "signal")}
        found[kind] += payload
    raise AssertionError("no exit")


def run(work):
    async def with_deadline():
        async with asyncio.timeout(150):
            return await work()

    return asyncio.run(with_deadline())


def test_the_tier_is_hardware(paths):
    async def work():
        guest = get_guest(paths)
        began = time.monotonic()
        verdict = await accel.probe_tier(paths.data / "tier.json", guest.kernel, guest.initrd, guest.cmdline)
        print(f"probed in {time.monotonic() - began:.1f} s: {verdict.reason}")
        assert verdict.tier is Tier.HARDWARE, verdict.reason
        async with open_end() as end:
            assert isinstance(end, KernelEnd)

    (paths.run / "s").mkdir(parents=True, exist_ok=True)
    run(work)


def test_a_program_with_input_runs_and_ends(paths, caplog):
    caplog.set_level(logging.INFO)
    script = 'read line; echo "got $line"; echo careful >&2; exit 3'

    async def work():
        process = ProcessSpec(argv=("sh", "-c", script), open_stdin=True)
        async with start(paths, SandboxSpec(process=process)) as sandbox:
            began = time.monotonic()
            attached = await sandbox.open("attach", stdin=True, backlog=True)
            await sandbox.wait_running()
            print(f"running after {time.monotonic() - began:.1f} s")
            await attached.send(Type.STDIN, b"one line\n")
            assert await read_all(attached) == (b"got one line\n", b"careful\n", {"code": 3, "signal": None})
        assert (sandbox.record.state, sandbox.record.exit_code, sandbox.record.reason) == (State.EXITED, 3, "")

    run(work)
    assert "did not power off" not in caplog.text


def test_a_second_program_runs_beside_the_first(paths):
    async def work():
        async with start(paths, SandboxSpec(process=ProcessSpec(argv=("sleep", "1000")))) as sandbox:
            await sandbox.wait_running()
            data = os.urandom(300_000)
            frames = await sandbox.open("exec", argv=["cat"], env={}, cwd="", user="", tty=False)
            reading = asyncio.create_task(read_all(frames))
            for place in range(0, len(data), wire.MAX_DATA):
                await frames.send(Type.STDIN, data[place : place + wire.MAX_DATA])
            await frames.send(Type.STDIN_EOF)
            assert await reading == (data, b"", {"code": 0, "signal": None})
            frames = await sandbox.open("exec", argv=["sh", "-c", "kill -9 $$"], env={}, cwd="", user="", tty=False)
            assert await read_all(frames) == (b"", b"", {"code": None, "signal": 9})
            await sandbox.control.request("kill")
        assert (sandbox.record.exit_code, sandbox.record.reason) == (137, "killed")

    run(work)


def test_a_kernel_computes(paths):
    key = secrets.token_hex(16)

    async def work():
        began = time.monotonic()
        async with start(paths, SandboxSpec(image=DEFAULT_IMAGE, kernel=KernelSpec(key=key))) as sandbox:
            await sandbox.wait_running()
            print(f"kernel listens after {time.monotonic() - began:.1f} s")
            await compute(sandbox.record.connection | {"key": key})
            await sandbox.control.request("stop", timeout_s=5)
        assert (sandbox.record.exit_code, sandbox.record.reason) == (0, "")

    run(work)


def test_a_kernel_goes_on_from_a_template(paths, tmp_path, caplog):
    """Baked with its kernel running, cloned twice: the vsock device of the host's kernel comes and goes with them."""
    caplog.set_level(logging.INFO)
    store, boots, key = TemplateStore(tmp_path / "templates"), ColdSource(Qemu(), open_end), secrets.token_hex(16)

    async def bake():
        images = ImageStore(paths.images)
        shape = plan_shapes(images, images.get(DEFAULT_IMAGE), memory_mib=512, cpus=1)[-1]
        began = time.monotonic()
        template = await bake_shape(paths, shape, boots, store)
        print(f"baked in {time.monotonic() - began:.1f} s: {template.memory_bytes >> 20} MiB")

    async def clone():
        began = time.monotonic()
        spec = SandboxSpec(image=DEFAULT_IMAGE, kernel=KernelSpec(key=key))
        async with start(paths, spec, TemplateSource(boots, store)) as sandbox:
            await sandbox.wait_running()
            print(f"kernel of a clone is its own after {time.monotonic() - began:.1f} s")
            await compute(sandbox.record.connection | {"key": key})
            frames = await sandbox.open("exec", argv=["cat", "/etc/machine-id"], env={}, cwd="", user="", tty=False)
            identity, _, _ = await read_all(frames)
            await sandbox.control.request("kill")
        return identity

    run(bake)
    assert run(clone) != run(clone)
    assert "no clone" not in caplog.text
    assert "no template" not in caplog.text


async def compute(connection):
    client = AsyncKernelClient()
    client.load_connection_info(json.loads(json.dumps(connection)))
    client.start_channels(hb=False)  # a beat may take longer here than the second a client waits for it
    try:
        await client.wait_for_ready(timeout=60)
        results = []
        reply = await client.execute_interactive("1+1", timeout=60, output_hook=results.append)
        assert reply["content"]["status"] == "ok"
        texts = [
            result["content"]["data"]["text/plain"] for result in results if result["msg_type"] == "execute_result"
        ]
        assert texts == ["2"]
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)
