"""A folder of the host that the guest sees live: served on the one side, mounted on the other, carried in between."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import GuestError
from hyper_kernel.host.jail import check_made
from hyper_kernel.mounts.server import Served, serve_folder
from hyper_kernel.sandbox.kernel import WORK
from hyper_kernel.spec import Mount, SandboxSpec

log = logging.getLogger(__name__)

_READ = 128 * 1024


class LiveFolder:
    """A folder that is served, and not yet mounted.

    :param mount: what is to be seen where.
    :param served: where its server is.
    """

    def __init__(self, mount: Mount, served: Served) -> None:
        self._mount = mount
        self._served = served
        self._stream: socket.socket | None = None
        self._carrying: list[asyncio.Task[None]] = []

    async def mount(self, agent: Agent) -> None:
        """Mount it in a guest.

        :raise GuestError: the guest does not.
        :raise JailError: there is no server, since this host did not make its jail.
        """
        wanted = self._mount
        self._stream = stream = (await agent.open("folder", path=wanted.target, read_only=wanted.read_only)).detach()
        # SECURITY: whatever the guest sends is the server's to read, in its jail; here it is only bytes.
        both = ((stream, self._served.sock), (self._served.sock, stream))
        self._carrying = [asyncio.create_task(_carry(source, sink)) for source, sink in both]
        try:
            await agent.request("mounted")
        except GuestError as exc:
            words = self._served.words()
            log.error("the server of %s: %s", wanted.source, words)
            check_made(words)
            raise GuestError(f"the guest cannot mount {wanted.source} at {wanted.target}: {exc}") from exc

    async def close(self) -> None:
        """End the mount: what the guest does there fails from here on."""
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        if self._stream:
            self._stream.close()


def plan_mounts(spec: SandboxSpec) -> tuple[Mount, ...]:
    """The folders that a sandbox sees live: those that it names, and its kernel's."""
    kernel = spec.kernel
    if kernel and kernel.folder and kernel.files in ("ro", "rw"):
        return (Mount(source=kernel.folder, target=WORK, read_only=kernel.files == "ro"), *spec.mounts)
    return spec.mounts


@asynccontextmanager
async def open_live(spec: SandboxSpec) -> AsyncIterator[list[LiveFolder]]:
    """Serve a sandbox's folders while the context lasts. Starts programs: to be entered before all walls.

    :raise RequestError, HostError: one cannot be served.
    """
    async with AsyncExitStack() as stack:
        folders = []
        for mount in plan_mounts(spec):
            served = await stack.enter_async_context(serve_folder(Path(mount.source), read_only=mount.read_only))
            folders.append(LiveFolder(mount, served))
            stack.push_async_callback(folders[-1].close)
        yield folders


async def _carry(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until either side ends; then both have ended."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _READ):
            await loop.sock_sendall(sink, data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
