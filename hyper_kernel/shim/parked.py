"""Parked clones: started, warmed and paused before anybody asks for them."""

import asyncio
import functools
import logging
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyper_kernel.errors import GuestError, HostError, HyperError
from hyper_kernel.host.jail import sweep_jails
from hyper_kernel.host.orders import MAX_REASON, do_while_held, receive_order, send_order
from hyper_kernel.host.process import is_alive, read_start_ticks
from hyper_kernel.hypervisor import MachineConfig, MachineEnd
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.sandbox.kernel import WORK, KernelPorts, resync_kernel, warm_kernel
from hyper_kernel.sandbox.plan import Shape, plan_boot, plan_image
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.source import Guest, OnEvent, Source
from hyper_kernel.shim.confined import ConfinedSource, plan_walls
from hyper_kernel.shim.log import log_to
from hyper_kernel.shim.shim import Shim

log = logging.getLogger(__name__)

#: What a claim does is done so often before: an emulated processor takes 64, 14 and then 7 ms for a resync.
_WARM_TIMES = 3


async def park(paths: Paths, shape: Shape, hyperd: socket.socket, source: Source) -> None:
    """Park one clone; become the shim of the sandbox that claims it, or end when hyperd lets go of its side.

    hyperd is told ``{"parked": True}`` or ``{"failed": reason}``; it claims with ``{"id": sandbox}`` and the socket
    that the shim is to be controlled by.
    """
    folder = make_private(paths.parked / str(os.getpid()))
    log_to(folder)
    try:
        async with AsyncExitStack() as stack:
            try:
                starting = stack.enter_async_context(_start(paths, shape, folder, source))
                parked = await do_while_held(hyperd, starting)
                send_order(hyperd, {"parked": True})
                sandbox, listener = await _wait_claim(hyperd, parked)
            except EOFError:
                return
            except HyperError as exc:
                send_order(hyperd, {"failed": str(exc)[:MAX_REASON]})
                return
            hyperd.close()
            record = Record.load(paths.sandboxes / sandbox).changed(shim_pid=os.getpid())
            log_to(paths.sandboxes / record.id)
            pool = PoolSource(parked, source, stack.aclose)
            confined = ConfinedSource(pool, functools.partial(plan_walls, paths, record, folder))
            await Shim(paths, record, confined, listener).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_parked(paths: Paths) -> None:
    """Remove the folders of clones that were killed, and end what is left of their machines."""
    sweep_jails()
    for folder in paths.parked.glob("*"):
        try:
            pid = int(folder.name)
            if is_alive(pid, read_start_ticks(pid)):
                continue
        except (ValueError, ProcessLookupError):
            pass
        shutil.rmtree(folder, ignore_errors=True)


async def _wait_claim(hyperd: socket.socket, parked: "Parked") -> tuple[str, socket.socket]:
    """The sandbox that claims it, and the socket that this is to be controlled by.

    :raise EOFError: hyperd let go, or the machine ended.
    """
    claiming, ended = asyncio.create_task(receive_order(hyperd)), asyncio.create_task(parked.wait_exit())
    try:
        await asyncio.wait({claiming, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not claiming.done():
            log.warning("its machine ended: %s", ended.result())
            hyperd.shutdown(socket.SHUT_RD)  # a claim that has come by now counts, and no other can come
        claim, (fd,) = await claiming
        return claim["id"], socket.socket(fileno=fd)
    finally:
        claiming.cancel()
        ended.cancel()
        await asyncio.gather(claiming, ended, return_exceptions=True)


class Parked:
    """A guest that rests until it is claimed.

    :param config: the machine it is.
    :param kernel: the kernelspec whose kernel runs in it.
    """

    def __init__(self, config: MachineConfig, kernel: str | None) -> None:
        self._config = config
        self._kernel = kernel
        self._guest: Guest | None = None
        self._on_event: OnEvent = lambda event: None

    def on_event(self, event: dict[str, Any]) -> None:
        """An event of the guest's agent; nobody hears it before the claim."""
        self._on_event(event)

    async def warm(self, guest: Guest, image: dict[str, Any], scratch_mib: int) -> None:
        """Do what a claim will do, with an identity for nobody: its code is translated and at hand then.

        :raise GuestError: the guest does not take it, or lacks the kernel.
        """
        if self._kernel is not None and not guest.kernel_key:
            raise GuestError("it has no kernel running", hint="run: hyper template bake")
        if guest.kernel_key:
            await guest.agent.resync(hostname="parked", scratch_mib=scratch_mib, image=image)
            await warm_kernel(guest.agent, guest.kernel_key, times=_WARM_TIMES)
        for _ in range(_WARM_TIMES):
            await guest.agent.resync(hostname="parked", scratch_mib=scratch_mib, image=image)
            if guest.kernel_key:
                await resync_kernel(guest.agent, guest.kernel_key, env={}, cwd=WORK)
        self._guest = guest
        if guest.kernel_key:
            ports = KernelPorts(guest.agent)
            self._guest = replace(guest, ports=ports)
            ports.dial_ahead()
            await ports.wait_dialled()

    async def rest(self) -> None:
        """Stop its processors."""
        assert self._guest
        await self._guest.machine.pause()

    async def close(self) -> None:
        """Close the connections that were made ahead and that nobody has taken."""
        if self._guest and self._guest.ports:
            await self._guest.ports.close()

    async def wait_exit(self) -> MachineEnd:
        """Wait until its machine has ended; say how."""
        assert self._guest
        return await self._guest.machine.wait_exit()

    async def wake(self, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None) -> Guest | None:
        """The guest, running, if it is what is wanted; its console goes on in ``folder``.

        :raise HostError: its machine has ended meanwhile.
        """
        # SECURITY: what was parked before an update of image, guest or hypervisor is used no more.
        if self._guest is None or (replace(config, name=self._config.name), kernel) != (self._config, self._kernel):
            return None
        self._guest.machine.move_console(folder)
        self._on_event = on_event
        await self._guest.machine.resume()
        return self._guest


class PoolSource:
    """Gives the guest that was parked where it will do, and otherwise one of another source.

    :param parked: it; ended by whoever started it.
    :param other: asked otherwise.
    :param drop: ends the guest that was parked; called where it will not do.
    """

    def __init__(self, parked: Parked, other: Source, drop: Callable[[], Awaitable[None]]) -> None:
        self._parked = parked
        self._other = other
        self._drop = drop

    @asynccontextmanager
    async def start(
        self, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None = None
    ) -> AsyncIterator[Guest]:
        """See :class:`hyper_kernel.sandbox.source.Source`."""
        try:
            guest = await self._parked.wake(config, folder, on_event, kernel)
        except (HostError, OSError) as exc:
            log.warning("the parked clone cannot be used: %s", exc)
            guest = None
        if guest:
            yield guest
            return
        await self._drop()
        async with self._other.start(config, folder, on_event, kernel) as other:
            yield other


@asynccontextmanager
async def _start(paths: Paths, shape: Shape, folder: Path, source: Source) -> AsyncIterator[Parked]:
    """Start and warm a clone of a shape."""
    image = ImageStore(paths.images).get(shape.image_id)
    config = await plan_boot(paths, image, memory_mib=shape.memory_mib, cpus=shape.cpus, name=f"parked-{os.getpid()}")
    parked = Parked(config, shape.kernel)
    async with source.start(config, folder, parked.on_event, shape.kernel) as guest:
        try:
            await parked.warm(guest, plan_image(image.config), shape.memory_mib // 2)
            await parked.rest()
            yield parked
        finally:
            await parked.close()
