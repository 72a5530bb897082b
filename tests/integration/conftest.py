"""A home of its own for each test, with this machine's guest files and images; a teardown looks for leavings."""

import os
import time
from pathlib import Path

import pytest

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.rootfs.guest import build_guest
from hyper_kernel.spec import DEFAULT_IMAGE

#: How long the leavings of a test may take to go, in seconds; hyperd notices dead parts within 5.
_GONE_S = 10.0


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Where ``hyper setup`` put the guest files and the base image."""
    paths = find_paths()
    build_guest(paths, lambda what, done, total: None)
    assert ImageStore(paths.images).find(DEFAULT_IMAGE), "run: hyper setup"
    return paths.data


@pytest.fixture
def home(tmp_path, shared_data, monkeypatch):
    """``HYPER_HOME`` for one test; afterwards nothing of it lives, and on failure its logs are shown."""
    root = tmp_path / "hyper"
    root.mkdir()
    (root / "data").symlink_to(shared_data)
    monkeypatch.setenv("HYPER_HOME", str(root))
    yield root
    paths = find_paths()
    try:
        client = Client()
        for sandbox in client.sandboxes(everything=True):
            client.remove(sandbox.id, force=True)
    finally:
        stop_daemon(paths)
        show_logs(paths)
        assert_nothing_lives(root, paths)


@pytest.fixture
def client(home) -> Client:
    return Client()


def processes_of(root: Path) -> list[str]:
    """Command lines of this test's hyperd, warm parents, shims and QEMUs: all inherit its HYPER_HOME."""
    marker, found = f"HYPER_HOME={root}".encode(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if marker in (folder / "environ").read_bytes().split(b"\0"):
                found.append(f"{folder.name} {(folder / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
        except OSError:
            continue
    return found


def assert_nothing_lives(root: Path, paths: Paths) -> None:
    deadline = time.monotonic() + _GONE_S
    while (left := processes_of(root)) and time.monotonic() < deadline:
        time.sleep(0.05)  # processes of other parents have no event for us
    assert not left
    assert not [path for path in paths.run.rglob("*") if path.is_socket()]
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(root) not in mounts


def show_logs(paths: Paths) -> None:
    """Printed for every test; pytest shows it for those that fail."""
    for path in sorted(paths.state.rglob("*.log")):
        print(f"--- {path.relative_to(paths.state)}\n{path.read_text(errors='replace')[-4000:]}")
