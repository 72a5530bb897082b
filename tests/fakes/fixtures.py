"""A home with a fake hyperd, for tests that need sandboxes but no machines; import the fixtures by name."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hyper_kernel.client import Client, start, stop_daemon
from hyper_kernel.paths import find_paths
from hyper_kernel.spec import KernelSpec, ProcessSpec, SandboxSpec

#: How long the leavings of a test may take to go, in seconds.
_GONE_S = 5.0


@pytest.fixture
def fake_home(monkeypatch):
    """``HYPER_HOME`` for one test, in which clients start the fake hyperd; afterwards nothing of it may live."""
    root = Path(tempfile.mkdtemp(prefix="hyper-fake-"))
    monkeypatch.setenv("HYPER_HOME", str(root))
    monkeypatch.setattr(start, "MODULE", "tests.fakes.hyperd")
    yield root
    paths = find_paths()
    try:
        if paths.sandboxes.is_dir():
            client = Client()
            for record in client.sandboxes(everything=True):
                client.remove(record.id, force=True)
            stop_daemon(paths)
        assert list((paths.run / "s").glob("*")) == []
        assert_no_process(root)
    except BaseException:
        for log in root.rglob("*.log"):
            print(f"--- {log}\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        for pid in processes_of(root):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root)


@pytest.fixture
def client(fake_home):
    return Client()


def shell(script, **options):
    """A spec that runs a script of the shell."""
    process = {name: options.pop(name) for name in ("tty", "open_stdin", "env") if name in options}
    return SandboxSpec(image="hyper/python", process=ProcessSpec(argv=("sh", "-c", script), **process), **options)


def kernel(**options):
    """A spec that runs a kernel."""
    return SandboxSpec(image="hyper/python", kernel=KernelSpec(key="secret"), **options)


def start_daemon(*options):
    """A fake hyperd as a child of the test, which can be waited for."""
    ready, theirs = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.hyperd", "--ready-fd", str(theirs), *options],
        pass_fds=[theirs],
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    return child


def wait_until(is_so, timeout_s=5.0):
    """Wait for what another process does, and for which it gives no event."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def processes_of(root):
    """Processes that inherited this test's home, but for the test itself."""
    marker, found = f"HYPER_HOME={root}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if marker in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def assert_no_process(root):
    wait_until(lambda: not processes_of(root), _GONE_S)
