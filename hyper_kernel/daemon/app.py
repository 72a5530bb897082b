"""hyperd put together, and its life: listen, adopt, serve, and leave when nobody needs it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable

from hyper_kernel import __version__
from hyper_kernel.daemon.admission import Admission
from hyper_kernel.daemon.archive import Archive
from hyper_kernel.daemon.attach import Attach
from hyper_kernel.daemon.containers import Containers
from hyper_kernel.daemon.events import Events
from hyper_kernel.daemon.execs import Execs
from hyper_kernel.daemon.images import Images
from hyper_kernel.daemon.kernels import Kernels
from hyper_kernel.daemon.policy import PolicyRoutes
from hyper_kernel.daemon.pool import Parking, Pool
from hyper_kernel.daemon.reviews import Reviews
from hyper_kernel.daemon.routing import Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Server
from hyper_kernel.daemon.system import System
from hyper_kernel.errors import BusyError, HostError
from hyper_kernel.host.lock import try_lock
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.sandbox.death import Death

log = logging.getLogger(__name__)

#: How long hyperd stays with no sandbox alive and no request, in seconds.
IDLE_EXIT_S = 300.0
#: How often it is looked whether the user has processor time left, in seconds.
_SPENT_S = 2.0


async def run(
    paths: Paths,
    pool: Pool,
    images: ImageStore,
    *,
    idle_exit_s: float = IDLE_EXIT_S,
    on_ready: Callable[[], None] = lambda: None,
    admission: Admission | None = None,
) -> None:
    """Be hyperd until asked to stop (a request, SIGTERM, SIGINT) or idle for ``idle_exit_s``.

    :param pool: where shims come from.
    :param on_ready: called once connections are taken.
    :param admission: what every start has to pass; this host's where it is left out.
    :raise BusyError: another hyperd serves this user.
    :raise HostError: the socket cannot be made.
    """
    make_private(paths.run)
    make_private(paths.state)
    make_private(paths.sandboxes)
    with try_lock(paths.run / "hyperd.lock") as held:
        if not held:
            raise BusyError(f"another hyperd serves {paths.socket}", hint="run: hyper daemon status")
        (paths.run / "hyperd.lock").write_text(f"{os.getpid()}\n")
        sock = listen(paths)
        try:
            await _serve(paths, pool, images, admission or Admission(), sock, idle_exit_s, on_ready)
        finally:
            paths.socket.unlink(missing_ok=True)
            sock.close()
    log.info("hyperd ended")


def listen(paths: Paths) -> socket.socket:
    """The listening socket; call only with hyperd's lock held, since it replaces a dead one.

    :raise HostError: it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        paths.socket.unlink(missing_ok=True)
        # SECURITY: nobody else may connect, not even for the moment between bind and chmod; the folder is 0700 too.
        mask = os.umask(0o177)
        try:
            sock.bind(str(paths.socket))
        finally:
            os.umask(mask)
        sock.listen(128)
    except OSError as exc:
        sock.close()
        raise HostError(f"cannot listen on {paths.socket}: {exc}", hint="set HYPER_HOME to a short path") from exc
    return sock


async def _serve(
    paths: Paths,
    pool: Pool,
    images: ImageStore,
    admission: Admission,
    sock: socket.socket,
    idle_exit_s: float,
    on_ready: Callable[[], None],
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # not the main thread: a test's
            loop.add_signal_handler(number, stopping.set)
    events = Events()
    sandboxes = Sandboxes(paths, pool, images, events, admission)
    server = Server(make_routes(paths, pool, sandboxes, images, events, stopping.set))
    warming = asyncio.create_task(pool.start())
    watching = asyncio.create_task(_end_when_spent(sandboxes))
    try:
        await sandboxes.adopt()
        server.listen(sock)
        log.info("hyperd %s serves %s", __version__, paths.socket)
        on_ready()
        await _until_idle(paths, pool, server, sandboxes, idle_exit_s, stopping)
    finally:
        paths.socket.unlink(missing_ok=True)
        await server.close()
        watching.cancel()
        await sandboxes.close()
        await asyncio.gather(warming, return_exceptions=True)
        await pool.close()


def make_routes(
    paths: Paths, pool: Pool, sandboxes: Sandboxes, images: ImageStore, events: Events, stop: Callable[[], None]
) -> Routes:
    """Everything that can be asked."""
    routes = Routes()
    for part in (
        Containers(sandboxes, images),
        Attach(sandboxes),
        Archive(sandboxes),
        Reviews(sandboxes),
        Execs(sandboxes, images),
        Images(images, sandboxes),
        Kernels(sandboxes),
        Parking(pool, sandboxes.rules),
        PolicyRoutes(sandboxes.rules),
        System(paths, pool, sandboxes, images, events, stop),
    ):
        part.add_to(routes)
    return routes


async def _end_when_spent(sandboxes: Sandboxes) -> None:
    """End all that lives once the user has used up today's processor time."""
    while True:
        await asyncio.sleep(_SPENT_S)  # what processes take of a processor makes no event
        if sandboxes.alive and (reason := sandboxes.rules.spent()):
            live = [box for box in sandboxes.list() if box.is_live]
            ends = [sandboxes.end(box, Death.CPU_LIMIT, reason) for box in live]
            await asyncio.gather(*ends, return_exceptions=True)  # what fails is logged, and tried again


async def _serve_last(server: Server, sandboxes: Sandboxes) -> None:
    """Serve who connected just before the socket's name went: called when that is gone."""
    # The loop's next rounds accept and read what the kernel holds for us; there is no event for "nothing more".
    await asyncio.sleep(0.1)
    while server.busy or sandboxes.alive:  # noqa: ASYNC110  # two counters, changed in many places, watched only here
        await asyncio.sleep(0.1)


async def _until_idle(
    paths: Paths, pool: Pool, server: Server, sandboxes: Sandboxes, idle_exit_s: float, stopping: asyncio.Event
) -> None:
    """Wait until asked to stop, or until nothing has been going on for a while."""
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    while not stopping.is_set():
        if server.busy or sandboxes.alive or pool.is_kept:
            since_s = loop.time()
        idle_s = loop.time() - max(since_s, server.last_s)
        if idle_s >= idle_exit_s:
            log.info("idle for %g s", idle_exit_s)
            paths.socket.unlink(missing_ok=True)
            await _serve_last(server, sandboxes)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.05, min(idle_exit_s - idle_s, idle_exit_s / 4))):
                await stopping.wait()
