"""The warm parent: ``python -m hyper_kernel.shim FD`` forks a shim for each line read from FD; see ``nursery``."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys

from hyper_kernel.errors import HyperError
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.shim.shim import Shim
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end

log = logging.getLogger(__name__)


def main() -> None:
    """Fork shims until hyperd closes its side."""
    # Shims are reaped by the kernel; hyperd watches them by their sockets.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as hyperd, hyperd.makefile("rb") as lines:
        for line in lines:
            pid = os.fork()
            if pid == 0:
                _become_shim(hyperd.fileno(), json.loads(line)["id"])
            hyperd.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _become_shim(hyperd: int, sandbox_id: str) -> None:
    """The child's whole life."""
    # SECURITY: leaves by os._exit whatever happens: a shim that returned would fork shims itself.
    code = 1
    try:
        os.close(hyperd)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asyncio.run(_run_shim(sandbox_id))
        code = 0
    finally:
        os._exit(code)


async def _run_shim(sandbox_id: str) -> None:
    paths = find_paths()
    folder = paths.sandboxes / sandbox_id
    logging.basicConfig(
        filename=folder / "shim.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        record = Record.load(folder).changed(shim_pid=os.getpid())
        source = TemplateSource(ColdSource(Qemu(), open_end), TemplateStore(paths.templates))
        await Shim(paths, record, source).run()
    except HyperError:
        log.exception("the shim failed")
        raise


if __name__ == "__main__":
    main()
