"""Folders of the host that the guest sees live: served on the one side, mounted on the other, carried in between."""

import asyncio
import logging
import os.path
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import GuestError, RequestError
from hyper_kernel.host.jail import check_made
from hyper_kernel.host.share import hold_cpu
from hyper_kernel.mounts.carry import carry
from hyper_kernel.mounts.gate import Gate, Owner
from hyper_kernel.mounts.messages import ProtocolError
from hyper_kernel.mounts.server import Served, check_apart, serve_folder
from hyper_kernel.paths import HOST_POLICY, Paths
from hyper_kernel.sandbox.kernel import WORK
from hyper_kernel.spec import LIVE, Mount, SandboxSpec

log = logging.getLogger(__name__)

_NO_USER = (1 << 32) - 1


class LiveFolder:
    """A folder that is served, and not yet mounted.

    :param mount: what is to be seen where.
    :param user: of the guest's, whose it is to be there; empty means the image's.
    :param served: where its server is.
    :param on_lost: told what has become of it, for people, when it ends before :meth:`close`.
    """

    def __init__(self, mount: Mount, user: str, served: Served, on_lost: Callable[[str], None]) -> None:
        self._mount = mount
        self._user = user
        self._served = served
        self._on_lost = on_lost
        self._stream: socket.socket | None = None
        self._carrying: asyncio.Task[None] | None = None

    async def mount(self, agent: Agent) -> None:
        """Mount it in a guest.

        :raise GuestError: the guest does not.
        :raise JailError: there is no server, since this host did not make its jail.
        """
        wanted = self._mount
        gate = Gate(read_only=wanted.read_only, owner=await self._find_owner(agent))
        frames = await agent.open("folder", path=wanted.target, read_only=wanted.read_only)
        self._stream = frames.detach()
        self._carrying = asyncio.create_task(self._carry(self._stream, gate))
        try:
            await agent.request("mounted")
        except GuestError as exc:
            words = self._served.words()
            log.error("the server of %s said: %s", wanted.source, words)
            check_made(words)
            raise GuestError(f"the guest cannot mount {wanted.source} at {wanted.target}: {exc}") from exc

    async def close(self) -> None:
        """End the mount: what the guest does there fails from here on."""
        if self._carrying:
            self._carrying.cancel()
            await asyncio.gather(self._carrying, return_exceptions=True)
        if self._stream:
            self._stream.close()

    async def _find_owner(self, agent: Agent) -> Owner:
        found = await agent.request("user", name=self._user)
        uid, gid = (_read_number(found.get(name)) for name in ("uid", "gid"))
        if uid is None or gid is None:
            raise GuestError(f"the guest does not say who {self._user or 'its user'} is")
        return Owner(uid, gid)

    async def _carry(self, stream: socket.socket, gate: Gate) -> None:
        carrying = asyncio.create_task(carry(stream, self._served.sock, gate))
        ended = asyncio.ensure_future(self._served.wait())
        try:
            await asyncio.wait({carrying, ended}, return_when=asyncio.FIRST_COMPLETED)
            problem = carrying.exception() if carrying.done() else None
            if isinstance(problem, ProtocolError):
                self._lose(str(problem))
            elif problem is not None:
                raise problem
            elif ended.done():
                words = self._served.words().strip() or "it said nothing"
                self._lose(f"its server ended with {ended.result()}: {words}")
        finally:
            carrying.cancel()
            ended.cancel()
            await asyncio.gather(carrying, ended, return_exceptions=True)

    def _lose(self, why: str) -> None:
        what = f"{self._mount.target} is lost, and answers with errors: {why}"
        log.error("%s", what)
        self._on_lost(what)


def _read_number(said: object) -> int | None:
    """A user's or a group's number; None where it is none."""
    # SECURITY: it is for the guest's eyes alone, but has to fit where it goes.
    return said if isinstance(said, int) and 0 <= said < _NO_USER else None


def plan_mounts(spec: SandboxSpec) -> list[Mount]:
    """The folders that a sandbox sees live, its kernel's among them, in the order in which they are mounted.

    :raise RequestError: its kernel has no folder.
    """
    mounts, kernel = [*spec.mounts], spec.kernel
    if kernel and kernel.files in LIVE:
        if not kernel.folder:
            raise RequestError(f"files={kernel.files}, and there is no folder", hint="give its folder, or files=none")
        mounts.append(Mount(source=kernel.folder, target=WORK, read_only=kernel.files == "ro"))
    return sorted(mounts, key=lambda mount: os.path.normpath(mount.target))  # one that is in another comes after it


@asynccontextmanager
async def open_live(spec: SandboxSpec, paths: Paths, on_lost: Callable[[str], None]) -> AsyncIterator[list[LiveFolder]]:
    """Serve a sandbox's folders while the context lasts. Starts programs: to be entered before all walls.

    :param on_lost: see :class:`LiveFolder`.
    :raise RequestError, HostError: one cannot be served.
    """
    async with AsyncExitStack() as stack:
        folders, own = [], (paths.data, paths.state, paths.run, paths.config, HOST_POLICY.parent)
        for mount in plan_mounts(spec):
            source = Path(mount.source)
            check_apart(source, own)
            served = await stack.enter_async_context(serve_folder(source, read_only=mount.read_only))
            await stack.enter_async_context(hold_cpu(served.pid, spec.limits.cpu_percent))
            folders.append(LiveFolder(mount, spec.process.user, served, on_lost))
            stack.push_async_callback(folders[-1].close)
        yield folders


async def mount_live(folders: list[LiveFolder], agent: Agent) -> None:
    """Mount folders in a guest.

    :raise GuestError, JailError: see :meth:`LiveFolder.mount`.
    """
    for folder in folders:
        await folder.mount(agent)
