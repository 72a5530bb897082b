"""Templates: baked once, sealed, verified; and clones that share nothing they must not share."""

import asyncio
import errno
import os
import time
from contextlib import AsyncExitStack

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.hypervisor import MachineConfig
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_boot
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.spec import DEFAULT_IMAGE
from hyper_kernel.template.bake import bake
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import TemplateStore, template_facts, template_key
from hyper_kernel.vsock.probe import open_end
from hyper_kernel.wire import Type

BOOTS = ColdSource(Qemu(), open_end)


@pytest.fixture(scope="module")
def config(shared_data):
    paths = find_paths()
    image = ImageStore(paths.images).get(DEFAULT_IMAGE)
    return asyncio.run(plan_boot(paths, image, memory_mib=256, cpus=1, name="template-test"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return TemplateStore(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="module")
def template(store, config):
    return asyncio.run(bake(BOOTS, store, config))


async def run(guest, *argv):
    """What a program prints in a guest."""
    stream = await guest.agent.open("exec", argv=list(argv), env={}, cwd="/", user="", tty=False, rows=24, cols=80)
    printed = b""
    async for kind, payload in stream:
        if kind is Type.STDOUT:
            printed += payload
        if kind is Type.EXIT:
            break
    stream.close()
    return printed.decode()


async def two_clones(store, config, folder, work):
    """Two clones side by side, each with its own identity; what ``work`` finds in each."""
    source = TemplateSource(BOOTS, store)
    async with AsyncExitStack() as stack:
        found = []
        for name in ("ada", "bob"):
            place = folder / name
            place.mkdir()
            guest = await stack.enter_async_context(source.start(config, place, lambda event: None))
            image = {"env": [], "user": "", "cwd": "/"}
            await guest.agent.resync(hostname=name, scratch_mib=64, image=image)
            found.append(await work(guest))
        return found


def test_it_is_baked_once(store, config, template):
    booted = []
    again = asyncio.run(bake(BOOTS, store, config, on_boot=lambda: booted.append(1)))
    assert again == template
    assert not booted
    assert [one.key for one in store.templates()] == [template.key]
    assert not list(template.folder.parent.glob(".baking-*"))


def test_a_clone_is_a_machine_that_booted_before(store, config, template, tmp_path):
    async def work(guest):
        return await run(guest, "sh", "-c", "cat /proc/uptime; uname -r")

    for printed in asyncio.run(two_clones(store, config, tmp_path, work)):
        uptime, _, release = printed.split()
        assert float(uptime) > 0
        assert release != os.uname().release


@pytest.mark.parametrize(
    "code",
    [
        "head -c 16 /dev/urandom | od -An -tx1",
        "cat /proc/sys/kernel/random/uuid",
        "cat /etc/machine-id",
        "hostname",
        "python3 -c 'import secrets; print(secrets.token_hex())'",
        "python3 -c 'import random; print(random.random())'",
        "python3 -c 'import uuid; print(uuid.uuid4())'",
        "mktemp -u XXXXXXXXXXXX",
    ],
)
def test_two_clones_differ(store, config, template, tmp_path, code):
    async def work(guest):
        return await run(guest, "sh", "-c", code)

    first, second = asyncio.run(two_clones(store, config, tmp_path, work))
    assert first.strip()
    assert first != second


def test_the_clock_of_a_clone_is_right(store, config, template, tmp_path):
    async def work(guest):
        return float(await run(guest, "date", "+%s.%N")) - time.time()

    for off_s in asyncio.run(two_clones(store, config, tmp_path, work)):
        assert abs(off_s) < 2


def test_nothing_is_served_before_resync(store, config, template, tmp_path):
    async def attempt():
        async with TemplateSource(BOOTS, store).start(config, tmp_path, lambda event: None) as guest:
            with pytest.raises(Exception, match="resync"):
                await run(guest, "true")

    asyncio.run(attempt())


def test_nobody_can_change_what_clones_start_from(store, config, template):
    with store.load(template, config.memory_mib) as ram:
        fd = os.open(f"/proc/self/fd/{ram.fd}", os.O_RDWR)
        try:
            with pytest.raises(OSError, match="not permitted") as caught:
                os.pwrite(fd, b"x", 0)
            assert caught.value.errno == errno.EPERM
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(fd, 4096)
        finally:
            os.close(fd)


def test_machines_that_differ_have_other_templates(config):
    keys = {template_key(template_facts(config, "QEMU A"))}
    keys.add(template_key(template_facts(config, "QEMU B")))
    for field, value in (("memory_mib", 512), ("cpus", 2), ("cmdline", "quiet"), ("disks", config.disks[:1])):
        other = MachineConfig(**{name: getattr(config, name) for name in config.__slots__} | {field: value})
        keys.add(template_key(template_facts(other, "QEMU A")))
    assert len(keys) == 6


@pytest.mark.parametrize("part", ["memory", "state"])
def test_a_damaged_template_is_removed_and_the_machine_boots_instead(config, tmp_path, part):
    store = TemplateStore(tmp_path / "templates")
    template = asyncio.run(bake(BOOTS, store, config))
    with open(template.folder / part, "r+b") as file:
        file.seek(4096)
        file.write(b"damaged")

    async def start():
        async with TemplateSource(BOOTS, store).start(config, tmp_path, lambda event: None) as guest:
            return guest.agent.hello["version"]

    assert asyncio.run(start()) == 1
    assert store.templates() == []


def test_a_bake_that_fails_leaves_nothing(config, tmp_path):
    store = TemplateStore(tmp_path / "templates")
    words = {"cmdline": "console=ttyS0 panic=-1 quiet rdinit=/no-such-program"}
    broken = MachineConfig(**{name: getattr(config, name) for name in config.__slots__} | words)
    with pytest.raises(HostError, match="guest panic"):
        asyncio.run(bake(BOOTS, store, broken))
    assert not [path for path in (tmp_path / "templates").iterdir() if path.suffix != ".lock"]
