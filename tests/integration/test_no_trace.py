"""A kernel that was started in a template, and one that was parked before: its user finds it as fresh as any other."""

import asyncio
import itertools
import json
import os
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty

import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.errors import HyperError
from hyper_kernel.host.memory import read_memory
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_shapes
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.shim.demand import is_tight
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, SandboxSpec
from hyper_kernel.template.bake import bake_shape
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end
from tests.fakes.fixtures import wait_until
from tests.integration.conftest import assert_nothing_lives, show_logs

START_S, CELL_S = 180, 60
#: How long hyperd may take to park a clone of what was started lately, in seconds.
PARK_S = 120

#: The first cell. What it prints of a kernel on this host and of one in a sandbox must be the same.
LOOK = """
import json
print(json.dumps({
    "dir": dir(),
    "locals": sorted(locals()),
    "namespace": sorted(get_ipython().user_ns),
    "hidden from %who": sorted(get_ipython().user_ns_hidden),
    "In": In,
    "Out": [list(Out), list(_oh)],
    "results": [_, __, ___],
    "inputs": [_i, _ii, _iii],
    "folders": len(_dh),
    "execution_count": get_ipython().execution_count,
    "last result": repr(get_ipython().last_execution_result),
    "history": list(get_ipython().history_manager.get_range()),
    "all history": list(get_ipython().history_manager.get_tail(100, include_latest=True)),
    "number of the session": get_ipython().history_manager.session_number,
    "outputs": [list(get_ipython().history_manager.outputs), list(get_ipython().history_manager.exceptions)],
    "callbacks": {name: len(all) for name, all in get_ipython().events.callbacks.items()},
    "comms": list(get_ipython().kernel.comm_manager.comms),
    "last error": [hasattr(__import__("sys"), name) for name in ("last_type", "last_value", "last_traceback")],
    "folder": sorted(__import__("os").listdir(".")),
    "prompts": get_ipython().kernel.execution_count,
}))
"""
#: Further cells, one after the other, and what is told apart: what they print and what they are worth.
CELLS = ("%who", "%history", "%history -g", "1 + 1", "__", "___", "_", "_i", "Out", "In[-2:]", "1 / 0", "_oh")

#: What only a kernel in a sandbox is asked.
LOOK_INSIDE = """
import gc, json, os, random, sys
def kinds(module, base):
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, base)] if base else []
print(json.dumps({
    "work": os.listdir("/work"),
    "tmp": os.listdir("/tmp"),
    "generators": kinds("random", random.Random),
    "numpy's": kinds("numpy", getattr(sys.modules.get("numpy.random"), "BitGenerator", None)),
    "key": json.load(open("/run/hyper/kernel.json"))["key"],
}))
"""

#: Connections of each channel of a kernel by their state: 01 is open, 08 that the peer has left (<net/tcp_states.h>).
CONNECTIONS = """
import json
from collections import Counter
from ipykernel import get_connection_file
ports = {value: name for name, value in json.load(open(get_connection_file())).items() if name.endswith("_port")}
rows = [row.split() for row in open("/proc/net/tcp").readlines()[1:]]
here = [(ports.get(int(row[1].split(":")[1], 16)), row[3]) for row in rows]
print(json.dumps(sorted(Counter(f"{port} {state}" for port, state in here if port and state in ("01", "08")).items())))
"""


@pytest.fixture(scope="module")
def home(shared_data, tmp_path_factory):
    """A ``HYPER_HOME`` with a template of its own, baked as ``hyper setup`` does."""
    root = tmp_path_factory.mktemp("hyper")
    (root / "data").mkdir()
    for name in ("guest", "images", "tier.json"):
        (root / "data" / name).symlink_to(shared_data / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPER_HOME", str(root))
        patch.setenv("JUPYTER_DATA_DIR", str(root / "jupyter"))
        patch.setenv("IPYTHONDIR", str(root / "ipython"))
        kernelspec.install()
        paths = find_paths()
        bake_template(paths)
        yield root
        try:
            for sandbox in Client().sandboxes(everything=True):
                Client().remove(sandbox.id, force=True)
        finally:
            stop_daemon(paths)
            show_logs(paths)
            assert_nothing_lives(root, paths)


def bake_template(paths):
    images = ImageStore(paths.images)
    shape = plan_shapes(images, images.get(DEFAULT_IMAGE), memory_mib=512, cpus=1)[-1]
    assert shape.kernel
    asyncio.run(bake_shape(paths, shape, ColdSource(Qemu(), open_end), TemplateStore(paths.templates)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "numbers.txt").write_text("1 2 3")
    return folder


@contextmanager
def start(folder):
    """A manager of a kernel in a sandbox."""
    manager = AsyncKernelManager(kernel_name="hyper-python")
    asyncio.run(manager.start_kernel(cwd=str(folder)))
    try:
        yield manager
    finally:
        asyncio.run(manager.shutdown_kernel(now=True))


def record_of(manager):
    return Client().sandbox(manager.provisioner._sandbox)


@contextmanager
def claim(folder):
    """A manager of a kernel in a clone that was parked, which hyperd does for what was started lately."""
    wait_until(lambda: Client().status()["parked"], PARK_S)
    parked = {path.name for path in find_paths().parked.iterdir()}
    with start(folder) as manager:
        assert str(record_of(manager).shim_pid) in parked
        yield manager


@pytest.fixture(scope="module", params=["template", "parked"])
def manager(request, home, folder):
    if request.param == "parked" and is_tight(read_memory()):
        pytest.skip("hyperd parks nothing on a host with so little memory")
    with ExitStack() as stack:
        manager = stack.enter_context(start(folder))
        if request.param == "parked":
            manager = stack.enter_context(claim(folder))
        yield manager


class Session:
    """A user's session, from the first message on: what was heard before, and what each cell gave.

    :param client: of a kernel that nobody has talked to.
    """

    def __init__(self, client):
        self._client = client
        self.early, self.cells = [], {}
        self._meet()

    def _meet(self):
        ours = set()
        while True:
            ours.add(sent := self._client.kernel_info())
            while self._client.get_shell_msg(timeout=START_S)["parent_header"].get("msg_id") != sent:
                pass
            # What is published before the subscription has reached the kernel is lost: ask again then.
            with suppress(Empty):
                while True:
                    message = self._client.get_iopub_msg(timeout=1)
                    if message["parent_header"].get("msg_id") not in ours:
                        self.early.append(message)
                    elif message["content"].get("execution_state") == "idle":
                        return

    def run(self, code):
        """What a cell prints and is worth; with the kinds of messages that came, and its number, it is also kept."""
        printed, kinds = [], []

        def collect(message):
            content = message["content"]
            kinds.append(message["msg_type"])
            printed.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("ename"))

        reply = self._client.execute_interactive(code, timeout=CELL_S, output_hook=collect, allow_stdin=False)
        printed = "".join(filter(None, printed))
        # What is printed may come in any number of messages.
        kinds = [kind for kind, _ in itertools.groupby(kinds)]
        self.cells[code] = (kinds, printed, reply["content"]["execution_count"])
        return printed

    def run_all(self):
        for code in (LOOK, *CELLS, CONNECTIONS):
            self.run(code)


@contextmanager
def session_of(manager):
    client = manager.blocking_client()
    client.start_channels()
    try:
        yield Session(client)
    finally:
        client.stop_channels()


@pytest.fixture(scope="module")
def session(manager):
    with session_of(manager) as session:
        session.run_all()
        yield session


@pytest.fixture(scope="module")
def fresh(home, folder):
    """The same session with a kernel on this host."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder))
    try:
        with session_of(manager) as session:
            session.run_all()
            return session
    finally:
        manager.shutdown_kernel(now=True)


@pytest.fixture
def inside(session):
    return json.loads(session.run(LOOK_INSIDE))


def test_nothing_is_heard_before_the_first_request(session):
    assert {message["msg_type"] for message in session.early} <= {"status", "iopub_welcome"}
    assert [
        message["content"] for message in session.early if message["content"].get("execution_state") == "busy"
    ] == []


def test_the_first_cell_finds_what_it_finds_in_a_fresh_kernel(session, fresh):
    found, expected = (json.loads(each.cells[LOOK][1]) for each in (session, fresh))
    assert found == expected
    assert session.cells[LOOK][2] == 1
    assert found["In"][0] == "" and len(found["In"]) == 2


def test_further_cells_give_what_they_give_in_a_fresh_kernel(session, fresh):
    assert {code: session.cells[code] for code in CELLS} == {code: fresh.cells[code] for code in CELLS}


def test_no_file_is_left(inside):
    assert inside["work"] == ["numbers.txt"]
    assert inside["tmp"] == []


def test_no_connection_is_left(session, fresh):
    wait_until(lambda: session.run(CONNECTIONS) == fresh.cells[CONNECTIONS][1], CELL_S)


def test_a_kernel_holds_no_generator_that_nobody_renews(inside):
    # random's own one, and the one of the module secrets that asks the system each time.
    assert sorted(inside["generators"]) in (["Random"], ["Random", "SystemRandom"])
    assert inside["numpy's"] == []


def test_the_clients_key_enters_no_guest(manager, inside):
    """Not its memory, nor the disks that are part of that."""
    record = record_of(manager)
    try:
        assert is_in_guest(record.qemu_pid, inside["key"].encode()), "this looks in the wrong place"
        assert not is_in_guest(record.qemu_pid, manager.session.key)
    except PermissionError:
        pytest.skip("this host lets nobody look into other processes")


def is_in_guest(pid, word):
    rows = Path(f"/proc/{pid}/maps").read_text().splitlines()
    (row,) = [row for row in rows if "hyper-template" in row and "rw" in row]
    start, end = (int(number, 16) for number in row.split()[0].split("-"))
    step = 16 << 20
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        pieces = (os.pread(memory.fileno(), step + len(word), at) for at in range(start, end, step))
        return any(word in piece for piece in pieces)


def test_a_start_whose_kernel_does_not_take_its_identity_leaves_nothing(home):
    """What no environment can hold makes it fail."""
    before = {sandbox.id for sandbox in Client().sandboxes(everything=True)}
    sockets = set(channel_sockets())
    with pytest.raises(HyperError, match="null byte"):
        Client().start_kernel(SandboxSpec(kernel=KernelSpec(files="none", key="key", env=("A=\0",))))
    assert {sandbox.id for sandbox in Client().sandboxes(everything=True)} <= before
    assert set(channel_sockets()) <= sockets


def channel_sockets():
    return [path for path in find_paths().run.rglob("*") if path.is_socket() and path.name != "hyperd.sock"]
