"""The warm parent: ``python -m hyper_kernel.shim FD`` forks a process for each order read from FD; see ``nursery``.

=====  ==============================================================  ==================================
do     what the process does                                           the order's descriptor
=====  ==============================================================  ==================================
run    is the shim of the recorded sandbox ``id``                      the socket it is controlled by
park   parks a clone, and is the shim of the sandbox that claims it    where it says so (see ``parked``)
bake   bakes the template of a shape                                   where it says that it is done
=====  ==============================================================  ==================================
"""

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from hyper_kernel.errors import HyperError
from hyper_kernel.host.orders import MAX_REASON, do_while_held, send_order, take_order
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import Shape
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.shim.confined import ConfinedHypervisor, ConfinedSource, plan_walls
from hyper_kernel.shim.log import log_to
from hyper_kernel.shim.parked import park
from hyper_kernel.shim.shim import Shim
from hyper_kernel.template.bake import bake_shape
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end

log = logging.getLogger(__name__)


def main() -> None:
    """Fork until hyperd closes its side."""
    # What is forked is reaped by the kernel; hyperd watches it by its sockets.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = TemplateStore(find_paths().templates)
    with socket.socket(fileno=int(sys.argv[1])) as hyperd:
        while True:
            try:
                order, (fd,) = take_order(hyperd)
            except EOFError:
                return
            _hold(store, str(order.get("template", "")))
            pid = os.fork()
            if pid == 0:
                hyperd.close()
                _become(order, socket.socket(fileno=fd), store)
            os.close(fd)
            send_order(hyperd, {"pid": pid})


def _hold(store: TemplateStore, key: str) -> None:
    try:
        if key:
            store.hold(key)
    except HyperError as exc:
        log.warning("no template at hand: %s", exc)


def _become(order: dict[str, Any], sock: socket.socket, store: TemplateStore) -> None:
    """The child's whole life."""
    # SECURITY: leaves by os._exit whatever happens: a child that returned would fork shims itself.
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sock.setblocking(False)
        asyncio.run(_WORK[order["do"]](order, sock, store))
        code = 0
    except Exception:  # the process ends here, and nobody else would say why
        log.exception("%s failed", order["do"])
    finally:
        os._exit(code)


async def _run(order: dict[str, Any], listener: socket.socket, store: TemplateStore) -> None:
    paths = find_paths()
    folder = paths.sandboxes / order["id"]
    log_to(folder)
    record = Record.load(folder).changed(shim_pid=os.getpid())
    source = ConfinedSource(_source(store), functools.partial(plan_walls, paths, record, None))
    await Shim(paths, record, source, listener).run()


async def _park(order: dict[str, Any], hyperd: socket.socket, store: TemplateStore) -> None:
    await park(find_paths(), Shape(**order["shape"]), hyperd, _source(store))


async def _bake(order: dict[str, Any], hyperd: socket.socket, store: TemplateStore) -> None:
    os.nice(10)  # nobody waits for it
    try:
        baking = bake_shape(
            find_paths(), Shape(**order["shape"]), _boots(), store, lambda what: send_order(hyperd, {"doing": what})
        )
        template = await do_while_held(hyperd, baking)
        send_order(hyperd, {"baked": template.key})
    except HyperError as exc:
        send_order(hyperd, {"failed": str(exc)[:MAX_REASON]})
    except EOFError:
        log.info("hyperd is gone: nothing is baked for it")


def _boots() -> ColdSource:
    return ColdSource(ConfinedHypervisor(Qemu()), open_end)


def _source(store: TemplateStore) -> TemplateSource:
    return TemplateSource(_boots(), store)


_WORK: dict[str, Callable[[dict[str, Any], socket.socket, TemplateStore], Coroutine[Any, Any, None]]] = {
    "run": _run,
    "park": _park,
    "bake": _bake,
}

if __name__ == "__main__":
    main()
