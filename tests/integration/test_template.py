"""Templates: baked once, sealed, verified, whatever goes wrong; and clones whose machines share no identity."""

import asyncio
import errno
import fcntl
import mmap
import os
import pickle
import select
import shutil
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hyper_kernel import wire
from hyper_kernel.errors import GuestError, HostError
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_boot
from hyper_kernel.sandbox.source import ColdSource, Guest
from hyper_kernel.spec import DEFAULT_IMAGE
from hyper_kernel.template import store as store_module
from hyper_kernel.template.bake import bake
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import SEALS, TemplateStore, template_facts, template_key
from hyper_kernel.vsock.probe import open_end
from hyper_kernel.wire import Type
from tests.fakes.fixtures import wait_until
from tests.fakes.open_files import assert_no_more_open, count_open

BOOTS = ColdSource(Qemu(), open_end)
NAMES = ("ada", "bob")
#: How long another process may take to bake, and to end when it was killed, in seconds.
BAKE_S, END_S = 240, 30


@pytest.fixture(scope="module")
def config(shared_data):
    paths = find_paths()
    image = ImageStore(paths.images).get(DEFAULT_IMAGE)
    return asyncio.run(plan_boot(paths, image, memory_mib=256, cpus=1, name="template-test"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="module")
def store(folder):
    return TemplateStore(folder)


#: A program that bakes the machine it is given, and prints what goes on and which template it is.
BAKE = """
import asyncio, pickle, sys
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.template.bake import bake
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end

def report(what):
    print(what, flush=True)

folder, config = pickle.load(sys.stdin.buffer)
report(asyncio.run(bake(ColdSource(Qemu(), open_end), TemplateStore(folder), config, report=report)).key)
"""


def start_baking(folder, config):
    """That program, started."""
    process = subprocess.Popen([sys.executable, "-c", BAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(pickle.dumps((folder, config)))
    process.stdin.flush()
    return process


def leavings(folder):
    return sorted(path.name for path in folder.glob(".baking-*"))


@pytest.fixture(scope="module")
def left(folder, config):
    """What a process left that was killed while its machine booted."""
    process = start_baking(folder, config)
    assert process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: children.read_text().split(), BAKE_S)
    machine = os.pidfd_open(int(children.read_text().split()[0]))
    process.kill()
    process.communicate()
    has_ended = bool(select.select([machine], [], [], END_S)[0])
    os.close(machine)
    return {"folders": leavings(folder), "machine has ended": has_ended}


@pytest.fixture(scope="module")
def baked(left, folder, config):
    """What two processes say that bake the same at once."""
    started = [start_baking(folder, config) for _ in NAMES]
    words = [process.communicate(timeout=BAKE_S)[0].decode().splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return words


@pytest.fixture(scope="module")
def template(store, baked):
    (template,) = store.templates()
    return template


@pytest.fixture
def other_store(template, tmp_path):
    """A store of one test, with a copy of the template, which may be changed."""
    folder = tmp_path / "templates"
    folder.mkdir()
    subprocess.run(["cp", "-a", "--sparse=always", str(template.folder), str(folder)], check=True)
    return TemplateStore(folder)


def damage(store, part):
    (template,) = store.templates()
    with open(template.folder / part, "r+b") as file:
        file.seek(4096)
        file.write(b"damaged")
    return template


@pytest.fixture
def full_store(tmp_path, request):
    """A store on a small disk, whose size is the fixture's parameter."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)], check=True)
    yield TemplateStore(folder)
    subprocess.run(["umount", str(folder)], check=True)


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


@asynccontextmanager
async def start_clones(store, config, folder):
    """Two clones side by side."""
    async with AsyncExitStack() as stack:
        guests = []
        for name in NAMES:
            (folder / name).mkdir()
            start = TemplateSource(BOOTS, store).start(config, folder / name, lambda event: None)
            guests.append(await stack.enter_async_context(start))
        yield guests


# Baking


def test_a_killed_bake_leaves_nothing_after_the_next_use(left, baked, folder, template):
    assert left["folders"], "it was killed too late to prove anything"
    assert left["machine has ended"]
    assert leavings(folder) == []
    assert {path.name for path in folder.iterdir()} == {template.key, f"{template.key}.lock"}


def test_two_processes_that_bake_the_same_bake_once(baked, template):
    first, second = sorted(baked, key=len)
    assert first == [template.key], "this one waited, and baked nothing"
    assert second[0] == "booting a machine to save it"
    assert second[-1] == template.key


def test_it_is_baked_once(store, config, template):
    said = []
    again = asyncio.run(bake(BOOTS, store, config, report=said.append))
    assert again == template
    assert said == []
    assert [one.key for one in store.templates()] == [template.key]


def test_a_bake_that_fails_leaves_nothing(config, tmp_path):
    store = TemplateStore(tmp_path / "templates")
    broken = replace(config, cmdline="console=ttyS0 panic=-1 quiet rdinit=/no-such-program")
    with pytest.raises(HostError, match="guest panic"):
        asyncio.run(bake(BOOTS, store, broken))
    assert not [path for path in (tmp_path / "templates").iterdir() if path.suffix != ".lock"]


def test_machines_that_differ_have_other_templates(config, tmp_path, monkeypatch):
    def key(hypervisor="QEMU A", kernel="python3", **changes):
        return template_key(template_facts(replace(config, **changes), hypervisor, kernel))

    kernel, disk = tmp_path / "vmlinuz", tmp_path / "disk.erofs"
    for path in (kernel, disk):
        path.write_bytes(b"content")
    keys = [
        key(),
        key("QEMU B"),
        key(kernel="ir"),
        key(kernel=None),
        key(memory_mib=512),
        key(cpus=2),
        key(cmdline="quiet"),
        key(kernel=None, disks=config.disks[:1]),
        key(disks=config.disks[::-1]),
        key(disks=(config.disks[0], disk)),  # the disk of another image: its path has the image's digest
    ]
    boot = template_key(template_facts(replace(config, kernel=kernel), "QEMU A", "python3"))
    kernel.write_bytes(b"security update")
    keys += [boot, template_key(template_facts(replace(config, kernel=kernel), "QEMU A", "python3"))]
    os.utime(disk, ns=(0, 0))
    keys.append(key(disks=(config.disks[0], disk)))
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]
    assert key(name="another name") == keys[-1]


# Loading and holding


def test_what_is_held_is_shared_by_all_clones(other_store, config, tmp_path):
    def pages_of(guest):
        """Device and inode of the guest's memory, as its QEMU has it mapped."""
        rows = Path(f"/proc/{guest.machine.pid}/maps").read_text().splitlines()
        return {tuple(row.split()[3:5]) for row in rows if "hyper-template" in row}

    async def look():
        async with start_clones(other_store, config, tmp_path) as guests:
            return [pages_of(guest) for guest in guests]

    (template,) = other_store.templates()
    other_store.hold(template.key)
    with other_store.load(template) as ram:
        inode = str(os.fstat(ram.fd).st_ino)
    first, second = asyncio.run(look())
    assert {pages[1] for pages in first} == {inode}
    assert first == second
    other_store.remove(template.key)
    other_store.hold(template.key)  # which lets go


@pytest.mark.parametrize("way", ["held", "loaded"])
def test_nobody_can_change_what_clones_start_from(other_store, way):
    (template,) = other_store.templates()
    if way == "held":
        other_store.hold(template.key)
    with other_store.load(template) as ram:
        for path in (f"/proc/self/fd/{ram.fd}", ram.state):
            attack(path)
    other_store.remove(template.key)
    other_store.hold(template.key)


def attack(path):
    """All that a process with the memfd could do to change it, or to get it ready for being changed."""
    fd = os.open(path, os.O_RDWR)
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
        size = os.fstat(fd).st_size
        attempts = (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.pwrite(fd, b"x", size),
            lambda: os.ftruncate(fd, 4096),
            lambda: os.ftruncate(fd, size + 4096),
            lambda: os.posix_fallocate(fd, size, 4096),
            lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        )
        for attempt in attempts:
            with pytest.raises(PermissionError) as caught:
                attempt()
            assert caught.value.errno == errno.EPERM
    finally:
        os.close(fd)


@pytest.mark.parametrize("part", ["memory", "state"])
def test_a_damaged_template_is_found_when_it_is_held(other_store, part):
    before = count_open()
    template = damage(other_store, part)
    with pytest.raises(HostError, match="damaged and is removed"):
        other_store.hold(template.key)
    assert other_store.templates() == []
    other_store.hold(template.key)
    assert_no_more_open(before)


# Starting when it cannot be used


def test_with_a_damaged_template_a_machine_boots_instead(other_store, config, tmp_path, caplog):
    damage(other_store, "memory")

    async def start():
        async with TemplateSource(BOOTS, other_store).start(config, tmp_path, lambda event: None) as guest:
            return guest.agent.hello["version"]

    assert asyncio.run(start()) == wire.VERSION
    assert "no clone, booting instead" in caplog.text
    assert "damaged" in caplog.text
    assert other_store.templates() == []


class Boots:
    """In the place of the source that boots machines: says how they are started."""

    hypervisor = BOOTS.hypervisor

    def __init__(self):
        self.started = []

    @asynccontextmanager
    async def start(self, config, folder, on_event, *, ram=None):
        self.started.append("clone" if ram else "boot")
        yield Guest(machine=None, end=None, agent=None)


def start_somehow(store, config, folder):
    """How a machine is started."""
    boots = Boots()

    async def start():
        async with TemplateSource(boots, store).start(config, folder, lambda event: None):
            return boots.started

    return asyncio.run(start())


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("memfd_create", errno.EMFILE, "Too many open files"),
        ("ftruncate", errno.ENOMEM, "Cannot allocate memory"),
        ("pwrite", errno.ENOSPC, "No space left on device"),
    ],
)
def test_on_a_host_that_refuses_the_memory_a_machine_boots_instead(
    store, config, template, tmp_path, monkeypatch, caplog, name, number, words
):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    assert start_somehow(store, config, tmp_path) == ["clone"]
    before = count_open()
    monkeypatch.setattr(store_module.os, name, refuse)
    assert start_somehow(store, config, tmp_path) == ["boot"]
    with pytest.raises(HostError, match=words):
        store.hold(template.key)
    monkeypatch.undo()
    assert f"cannot load template {template.key[:12]}" in caplog.text
    assert words in caplog.text
    assert_no_more_open(before)
    assert store.templates() == [template], "it is as good as before"


@pytest.mark.parametrize("full_store", ["2m"], indirect=True)
def test_a_full_disk_keeps_no_template_and_machines_boot(full_store, store, config, template, tmp_path, caplog):
    caplog.set_level("INFO")
    with store.load(template) as ram, full_store.baking(template.key) as folder:
        shutil.copy(template.folder / "state", folder)
        with pytest.raises(HostError, match="No space left on device") as caught:
            full_store.add(template.key, folder, ram.fd, template.facts)
    assert caught.value.hint == "free some space"
    assert full_store.templates() == []
    assert [path.suffix for path in folder.parent.iterdir()] == [".lock"]
    assert start_somehow(full_store, config, tmp_path) == ["boot"]
    assert "no template for such a machine" in caplog.text


@pytest.mark.parametrize("full_store", ["100k"], indirect=True)
def test_a_disk_that_gets_full_while_a_machine_is_saved_fails_the_bake(full_store, config, tmp_path):
    # QEMU's own words follow, but the reason is not always written yet when it says that it failed.
    with pytest.raises(HostError, match="QEMU's migrate failed: "):
        asyncio.run(bake(BOOTS, full_store, config))
    assert [path.suffix for path in (tmp_path / "full").iterdir()] == [".lock"]


# Clones


PRINTS = {
    "urandom": "head -c 16 /dev/urandom | od -An -tx1",
    "uuid": "cat /proc/sys/kernel/random/uuid",
    "boot id": "cat /proc/sys/kernel/random/boot_id",
    "machine id": "cat /etc/machine-id",
    "host's name": "hostname",
    "file of the host's name": "cat /etc/hostname",
    "secrets": "python3 -c 'import secrets; print(secrets.token_hex())'",
    "random": "python3 -c 'import random; print(random.random())'",
    "names of temporary files": "mktemp -u XXXXXXXXXXXX",
    "uptime": "cat /proc/uptime",
    "release": "uname -r",
}


@pytest.fixture(scope="module")
def printed(store, config, template, tmp_path_factory):
    """What each of two clones prints, and by how much its clock is off, in seconds."""

    async def ask(guest, name):
        await guest.agent.resync(hostname=name, scratch_mib=64, image={"env": [], "user": "", "cwd": "/"})
        before_s = time.time()
        clock_s = float(await run(guest, "date", "+%s.%N"))
        off_s = max(before_s - clock_s, clock_s - time.time(), 0)
        return {"off_s": off_s} | {what: await run(guest, "sh", "-c", code) for what, code in PRINTS.items()}

    async def ask_all():
        async with start_clones(store, config, tmp_path_factory.mktemp("clones")) as guests:
            return [await ask(guest, name) for guest, name in zip(guests, NAMES, strict=True)]

    return asyncio.run(ask_all())


@pytest.mark.parametrize("what", sorted(set(PRINTS) - {"uptime", "release"}))
def test_two_clones_differ(printed, what):
    first, second = (each[what] for each in printed)
    assert first.strip()
    assert first != second


def test_a_clone_is_a_machine_that_booted_before(printed):
    for each in printed:
        assert float(each["uptime"].split()[0]) > 0
        assert each["release"].strip() != os.uname().release


def test_the_clock_of_a_clone_is_right(printed):
    for each in printed:
        assert each["off_s"] < 2


def test_nothing_is_served_before_resync(store, config, template, tmp_path):
    async def attempt():
        async with TemplateSource(BOOTS, store).start(config, tmp_path, lambda event: None) as guest:
            streams = {
                "exec": {"argv": ["true"]},
                "put": {"path": "/"},
                "get": {"path": "/etc"},
                "connect": {"port": 1},
            }
            for kind, args in streams.items():
                with pytest.raises(GuestError, match="resync comes first"):
                    await guest.agent.open(kind, **args)
            for operation in ("kernel.start", "kernel.signal", "stats"):
                with pytest.raises(GuestError, match="came before resync"):
                    await guest.agent.request(operation)

    asyncio.run(attempt())
