"""Homes for hyperd: with this machine's images and guest files, and a state of their own of which nothing is left."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil

from hyper_kernel.cli.crowd import call_all
from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.client.start import find_version
from hyper_kernel.errors import GuestError, HyperError
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.spec import KernelSpec, SandboxSpec

#: How long the pool may take to park all it aims at, and leavings to go, in seconds.
_SETTLE_S, _GONE_S = 180.0, 10.0


@contextmanager
def open_home(data: Path, *, templates: bool = True) -> Iterator[Paths]:
    """A home for hyperd, which nothing outlives that was started in it.

    :param data: images, guest files and templates.
    :param templates: whether hyperd may use and bake any.
    """
    with tempfile.TemporaryDirectory(prefix="hyper-bench-") as name:
        root = Path(name)
        if templates:
            (root / "data").symlink_to(data)
        else:
            _link_without_templates(data, root / "data")
        with patch.dict(os.environ, {"HYPER_HOME": name, "JUPYTER_RUNTIME_DIR": f"{name}/jupyter"}):
            try:
                yield find_paths()
            finally:
                _empty(root)


async def renew_daemon() -> None:
    """Have a hyperd that has nothing parked, and whose warm parent is up."""
    stop_daemon(find_paths())
    # No image has such a kernel: the start fails once the warm parent has forked a shim for it, and asks for no clone.
    with contextlib.suppress(GuestError):
        Client().start_kernel(SandboxSpec(kernel=KernelSpec(name="none")))


async def renew_daemon_with_template() -> None:
    """Have a hyperd that has nothing parked, and whose warm parent has the template with a kernel at hand."""
    stop_daemon(find_paths())
    for count in (1, 0):
        Client().keep_parked(count)
        await wait_settled()


async def wait_settled() -> None:
    """Wait until the pool has parked all it aims at: then hyperd does nothing that somebody would feel.

    :raise TimeoutError: it does not get there, for want of memory perhaps.
    """
    client = Client()
    try:
        async with asyncio.timeout(_SETTLE_S):
            while any(row["parked"] != max(row["target"], row["kept"]) or row["warming"] for row in client.pool()):
                await asyncio.sleep(0.1)  # the pool tells nobody
    except TimeoutError as exc:
        raise TimeoutError(f"the pool does not get to its target: {client.pool()}") from exc


def _link_without_templates(data: Path, folder: Path) -> None:
    folder.mkdir()
    for name in ("guest", "images", "tier.json"):
        (folder / name).symlink_to(data / name)
    # A file where their folder would be: hyperd finds no template there, and gives up at once to bake one meanwhile.
    (folder / "templates").touch()


def _empty(root: Path) -> None:
    """End all sandboxes, hyperd, and whatever else was started in this home."""
    try:
        if find_version(find_paths()):
            client = Client()
            for call in call_all(lambda one: client.remove(one.id, force=True), client.sandboxes(everything=True)):
                with contextlib.suppress(HyperError):
                    call.result()
            stop_daemon(find_paths())
    finally:
        left = _wait_gone(root)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_GONE_S)


def _wait_gone(root: Path) -> list[psutil.Process]:
    """Processes of a home that do not end by themselves."""
    deadline_s = time.monotonic() + _GONE_S
    while (left := _processes(root)) and time.monotonic() < deadline_s:
        psutil.wait_procs(left, timeout=0.1)
    return left


def _processes(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("HYPER_HOME") == str(root):
                found.append(process)
    return found
