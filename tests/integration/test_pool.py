"""Clones that wait for sandboxes, in real machines: given, replaced, and gone with whoever wanted them."""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jupyter_client import BlockingKernelClient

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.host.process import read_parent
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, ProcessSpec, SandboxSpec
from tests.fakes.fixtures import wait_until
from tests.integration.conftest import processes_of

#: How long a clone may take to be parked, its template to be baked first, and a killed part to be noticed, in seconds.
PARK_S, NOTICE_S = 240, 20
PARKED, BAKING = "-name hyper-parked-", "-name hyper-template "


def run(client):
    """Run a program in a sandbox of its own; its record as it was while that ran, and what it printed."""
    record = client.create(SandboxSpec(process=ProcessSpec(argv=("sh", "-c", "read x; echo hello"), open_stdin=True)))
    stream = client.attach(record.id, stdin=True)
    client.start(record.id)
    record = client.sandbox(record.id)
    stream.send(b"go\n")
    printed = b"".join(data for _, data in stream)
    stream.close()
    client.remove(record.id, force=True)
    return record, printed


def machines(home, words=PARKED):
    """QEMU's process ids, by the shim that each belongs to; between the two is the jail."""
    found = {}
    for line in processes_of(home):
        if words in line:
            jail = int(line.split()[0])
            with contextlib.suppress(OSError, ValueError):
                qemu = int(Path(f"/proc/{jail}/task/{jail}/children").read_text())
                found[read_parent(jail)] = qemu
    return found


def wait_parked(client, home, count=1):
    """Wait until as many clones can be claimed; the QEMU of each, by its shim."""
    wait_until(lambda: client.status()["parked"] == count, PARK_S)
    found = machines(home)
    assert len(found) >= count
    return found


def wait_ended(*pids):
    """Wait for the end of processes that are not our children."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            assert select.select([pidfd], [], [], NOTICE_S)[0], f"{pid} lives on"
            os.close(pidfd)


def warm_parent(home):
    """The process that forks shims, child of hyperd."""
    daemon = Client().status()["pid"]
    for line in processes_of(home):
        pid = int(line.split()[0])
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == daemon:
                return pid
    raise AssertionError("hyperd has no child")


def ask(client, code):
    """What a kernel that was just started answers to a cell."""
    started = client.start_kernel(SandboxSpec(kernel=KernelSpec(key="secret")))
    kernel = BlockingKernelClient()
    kernel.load_connection_info(started["connection"] | {"key": "secret"})
    kernel.start_channels()
    try:
        printed = []
        kernel.wait_for_ready(timeout=PARK_S)
        kernel.execute_interactive(code, output_hook=lambda message: printed.append(message["content"].get("text")))
        return client.sandbox(started["id"]), "".join(filter(None, printed))
    finally:
        kernel.stop_channels()


def test_a_kernel_is_a_clone_that_was_parked(client, home):
    client.keep_parked(1)
    waiting = wait_parked(client, home)
    assert client.sandboxes(everything=True) == []
    assert client.pool()[0]["kernel"] == "python3"
    first, printed = ask(client, "import os; print(os.getcwd(), os.environ.get('HOSTNAME'), os.uname().nodename)")
    assert {first.shim_pid: first.qemu_pid} == waiting
    assert printed.split() == ["/work", "None", first.id[:12]]
    waiting = wait_parked(client, home)
    second, printed = ask(client, "print(6 * 7)")
    assert waiting[second.shim_pid] == second.qemu_pid != first.qemu_pid
    assert printed == "42\n"
    assert len(client.sandboxes()) == 2
    client.keep_parked(0)
    for record in (first, second):
        client.remove_kernel(record.id)


def test_a_program_gets_a_clone_and_another_is_parked(client, home):
    first, printed = run(client)
    assert printed == b"hello\n"
    for _ in range(2):
        waiting = wait_parked(client, home)
        record, printed = run(client)
        assert printed == b"hello\n"
        assert waiting[record.shim_pid] == record.qemu_pid
        assert record.qemu_pid != first.qemu_pid
        wait_ended(record.shim_pid, record.qemu_pid)
        assert not (client.paths.parked / str(record.shim_pid)).exists()


def test_a_killed_hyperd_leaves_nothing_and_the_next_keeps_what_was_asked_for(client, home):
    client.keep_parked(2, programs=True)
    waiting = wait_parked(client, home, 2)
    daemon, parent = client.status()["pid"], warm_parent(home)
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon, parent, *waiting, *waiting.values())
    assert list(client.paths.parked.iterdir()) == []
    assert client.pool()[0]["kept"] == 2
    again = wait_parked(client, home, 2)
    assert not set(again) & set(waiting)
    for shim in again:
        os.kill(shim, signal.SIGSTOP)  # as if it were killed together with hyperd: it cannot tidy up
    daemon = client.status()["pid"]
    os.kill(daemon, signal.SIGKILL)
    for shim in again:
        os.kill(shim, signal.SIGKILL)
    wait_ended(daemon, *again, *again.values())
    assert {folder.name for folder in client.paths.parked.iterdir()} == {str(shim) for shim in again}
    client.keep_parked(0, programs=True)
    assert list(client.paths.parked.iterdir()) == []
    assert client.status()["parked"] == 0


def test_hyperd_that_stops_leaves_nothing(client, home):
    client.keep_parked(1, programs=True)
    wait_parked(client, home)
    assert stop_daemon(client.paths)
    wait_until(lambda: processes_of(home) == [], NOTICE_S)
    assert list(client.paths.parked.iterdir()) == []


def test_a_killed_warm_parent_costs_nothing(client, home):
    client.keep_parked(1, programs=True)
    waiting = wait_parked(client, home)
    parent = warm_parent(home)
    os.kill(parent, signal.SIGKILL)
    wait_ended(parent)
    record, printed = run(client)
    assert (record.qemu_pid, printed) == (waiting[record.shim_pid], b"hello\n")
    record, printed = run(client)
    assert printed == b"hello\n"
    assert warm_parent(home) != parent
    wait_parked(client, home)


@pytest.mark.parametrize("part", ["shim", "QEMU"])
def test_a_start_works_though_a_parked_part_was_killed(client, home, part):
    client.keep_parked(1, programs=True)
    ((shim, qemu),) = wait_parked(client, home).items()
    os.kill(shim if part == "shim" else qemu, signal.SIGKILL)
    record, printed = run(client)
    assert printed == b"hello\n"
    assert record.qemu_pid != qemu
    wait_ended(shim, qemu)
    again = wait_parked(client, home)
    assert shim not in again
    assert {folder.name for folder in client.paths.parked.iterdir()} == {str(pid) for pid in again}


# -- templates and images of their own ------------------------------------------------------------------------------


def take_own_data(home):
    """Replace this home's data by one with the same guest and images, but no template."""
    shared, own = (home / "data").resolve(), home / "own"
    own.mkdir()
    for name in ("guest", "images", "tier.json"):
        (own / name).symlink_to(shared / name)
    (home / "data").unlink()
    (home / "data").symlink_to(own)
    return own


def test_two_hyperds_bake_what_an_image_lacks_once_and_in_the_background(client, home, tmp_path, monkeypatch):
    own, other = take_own_data(home), tmp_path / "other"
    other.mkdir()
    (other / "data").symlink_to(own)
    monkeypatch.setenv("HYPER_HOME", str(other))
    theirs = Client()
    theirs.version()
    monkeypatch.setenv("HYPER_HOME", str(home))
    seen = {}

    def are_both_parked():
        for pid in (*machines(home, BAKING).values(), *machines(other, BAKING).values()):
            with contextlib.suppress(OSError):
                seen.setdefault(pid, os.getpriority(os.PRIO_PROCESS, pid))
        return [each.status()["parked"] for each in (client, theirs)] == [1, 1]

    with ThreadPoolExecutor() as threads:
        uses = [threads.submit(run, each) for each in (client, theirs)]
        try:
            wait_until(are_both_parked, PARK_S)
            assert [use.result()[1] for use in uses] == [b"hello\n"] * 2
        finally:
            stop_daemon(theirs.paths)
    assert list(seen.values()) == [10]
    assert len(list((own / "templates").glob("[!.]*/"))) == 1
    wait_until(lambda: processes_of(other) == [], NOTICE_S)


def test_hyperd_that_stops_while_a_template_is_baked_leaves_nothing(client, home):
    own = take_own_data(home)
    client.keep_parked(1, programs=True)
    wait_until(lambda: machines(home, BAKING), PARK_S)
    assert stop_daemon(client.paths)
    wait_until(lambda: processes_of(home) == [], NOTICE_S)
    assert [path.suffix for path in (own / "templates").iterdir()] == [".lock"]


def derive_image(images, name):
    """Another image with the same layers and the same disk, under a name."""
    store = ImageStore(images)
    image = store.get(DEFAULT_IMAGE)
    blobs, layout = images / "blobs/sha256", image.disk.parent

    def read(digest):
        return json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())

    def write(document):
        data = json.dumps(document).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    index = json.loads((layout / "index.json").read_text())
    manifest = read(index["manifests"][0]["digest"])
    manifest["config"] |= write(read(manifest["config"]["digest"]) | {"author": "a test"})
    index["manifests"][0] |= write(manifest)
    other = images / "images" / manifest["config"]["digest"].removeprefix("sha256:")
    shutil.copytree(layout, other, symlinks=True)
    (other / "index.json").write_text(json.dumps(index))
    return store.tag(store.get(f"sha256:{other.name}"), name)


def copy_images(own):
    """Have images of our own in a data folder, which share layers and disks with those of this machine."""
    shared = (own / "images").resolve()
    (own / "images").unlink()
    own = own / "images"
    (own / "blobs/sha256").mkdir(parents=True)
    for blob in (shared / "blobs/sha256").iterdir():
        (own / "blobs/sha256" / blob.name).symlink_to(blob)
    for layout in (shared / "images").iterdir():
        copy = own / "images" / layout.name
        shutil.copytree(layout, copy, symlinks=True, ignore=shutil.ignore_patterns("disk.erofs"))
        (copy / "disk.erofs").symlink_to(layout / "disk.erofs")
    shutil.copy(shared / "names.json", own)
    return own


def test_clones_of_an_image_that_was_replaced_are_replaced_too(client, home):
    images = copy_images(take_own_data(home))
    client.keep_parked(1, programs=True)
    ((shim, qemu),) = wait_parked(client, home).items()
    old = client.pool()[0]["image_id"]
    new = derive_image(images, DEFAULT_IMAGE)
    assert new.id != old
    wait_ended(shim, qemu)
    waiting = wait_parked(client, home)
    assert [(row["image_id"], row["parked"]) for row in client.pool()] == [(new.id, 1)]
    record, printed = run(client)
    assert (record.image_id, record.qemu_pid, printed) == (new.id, waiting[record.shim_pid], b"hello\n")
