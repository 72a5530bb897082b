"""The Jupyter kernel of a sandbox: its folder, its process, its channels."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

from hyper_kernel import wire
from hyper_kernel.agent.agent import Agent
from hyper_kernel.channels.splice import Splice
from hyper_kernel.errors import GuestError
from hyper_kernel.link import Frames
from hyper_kernel.shim.folder import open_archive, plan_copy
from hyper_kernel.spec import KernelSpec
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)

#: Where a notebook's folder stands in the guest.
WORK = "/work"
#: How long a client's connection waits for the kernel to listen, in seconds.
_KERNEL_WAIT_S = 60.0


class Kernel:
    """One kernel; its channels' listeners live over restarts, so that clients come back by themselves.

    :param agent: of the guest it runs in.
    :param channels: the path its channels' sockets start with.
    """

    def __init__(self, agent: Agent, channels: Path) -> None:
        self._agent = agent
        self._channels = channels
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.Event()
        self.splice = Splice(self._dial)

    async def start(self, spec: KernelSpec) -> dict[str, Any]:
        """Bind the channels, start the kernel, wait until it listens; the connection info for clients, without the key.

        :raise GuestError: the image has no such kernel, or it ended instead.
        """
        self._exit = asyncio.get_running_loop().create_future()
        if spec.transport == "ipc":
            info = self.splice.bind_ipc(self._channels)
        else:
            info = self.splice.bind_tcp("127.0.0.1", spec.ports)
        await self._agent.request(
            "kernel.start",
            name=spec.name or None,
            key=spec.key,
            arguments=list(spec.arguments),
            env=dict(entry.split("=", 1) for entry in spec.env),
            cwd=WORK,
        )
        await self._wait_listening()
        return info | {"signature_scheme": "hmac-sha256", "kernel_name": spec.name}

    async def ended(self, code: int) -> None:
        """Take note that the kernel's process has ended: its clients' connections close, the listeners stay."""
        if not self._exit.done():
            self._exit.set_result(code)
        self._listening.clear()
        await self.splice.drop_connections()

    async def signal(self, number: int) -> None:
        """Signal the kernel's process group."""
        await self._agent.request("kernel.signal", signal=number)

    async def copy_folder(self, spec: KernelSpec) -> str:
        """Read the notebook's folder in; what was left out, for people, or empty.

        :raise RequestError: the folder cannot be read.
        :raise GuestError: the guest cannot store it.
        """
        if spec.files != "copy" or not spec.folder:
            return ""
        folder = Path(spec.folder)
        plan = await asyncio.to_thread(plan_copy, folder)
        stream = await self._agent.open("put", path=WORK)
        try:
            with open_archive(folder, plan) as archive:
                while data := archive.read(wire.MAX_DATA):
                    await stream.send(Type.STDIN, data)
            await stream.send(Type.STDIN_EOF)
            await expect_success(stream, f"copying {folder} into the sandbox")
        finally:
            stream.close()
        log.info("copied %d entries of %s, left out %d", len(plan.paths), folder, plan.left_out)
        return f"{plan.left_out} entries of the folder were not copied (hidden, links, or over the limit)" * bool(
            plan.left_out
        )

    async def _wait_listening(self) -> None:
        # ipykernel binds its heartbeat last (IPKernelApp.initialize).
        listening = asyncio.create_task(self._connect("hb"))
        racing: list[asyncio.Future[Any]] = [listening, self._exit]
        try:
            await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            if self._exit.done():
                raise GuestError(f"the kernel ended while it started (exit code {self._exit.result()})")
            listening.result().close()
            self._listening.set()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _dial(self, channel: str) -> socket.socket:
        """A client's connection; called by the splice, and at once by all clients of a kernel that starts again."""
        # In the guest, waiting means asking again and again: one that asks is enough, for all take from its processor.
        async with asyncio.timeout(_KERNEL_WAIT_S):
            await self._listening.wait()
        return await self._connect(channel)

    async def _connect(self, channel: str) -> socket.socket:
        return await self._agent.connect(wire.KERNEL_PORTS[channel], wait_s=_KERNEL_WAIT_S)


async def expect_success(stream: Frames, what: str) -> None:
    """Read a put or get stream to its exit.

    :raise GuestError: it failed, with the guest's reason.
    """
    words = b""
    async for kind, payload in stream:
        if kind is Type.STDERR:
            words = (words + payload)[-2000:]
        elif kind is Type.EXIT:
            if wire.parse(kind, payload).get("code") == 0:
                return
            break
    raise GuestError(f"{what} failed: {words.decode(errors='replace').strip() or 'the guest gave no reason'}")
