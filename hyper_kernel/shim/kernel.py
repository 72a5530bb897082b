"""The Jupyter kernel of a sandbox: its process, its channels."""

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any

from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.splice import Splice
from hyper_kernel.errors import GuestError, HostError, LostError
from hyper_kernel.sandbox.death import Cause
from hyper_kernel.sandbox.kernel import LISTEN_S, WORK, KernelPorts, new_key, resync_kernel, sign_with
from hyper_kernel.sandbox.source import Guest
from hyper_kernel.shim.program import Program
from hyper_kernel.spec import KernelSpec, Limits

#: How long all clients together may take to read why their kernel ended, in seconds.
_LAST_WORDS_S = 3.0
#: How long a guest may take to interrupt its kernel, in seconds.
_INTERRUPT_S = 5.0
#: What cells of a kernel that is gone end with, in the place of a Python exception.
_ENDED = "DeadKernelError"
_SIGINT, _SIGKILL, _SIGTERM = 2, 9, 15


class Kernel:
    """One kernel, and what carries its clients' connections.

    :param guest: where it runs, or is to be started.
    :param spec: what is wanted.
    :param limits: of what its cells show.
    """

    def __init__(self, guest: Guest, spec: KernelSpec, limits: Limits) -> None:
        self._agent = guest.agent
        self._ports = guest.ports or KernelPorts(guest.agent)
        self._spec = spec
        self._is_ready = bool(guest.kernel_key)
        self._key = guest.kernel_key or new_key()
        self._was_told_to_end = False
        #: Whether the guest has said that it ended.
        self.has_ended = False
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # SECURITY: the clients' key stays here; what the guest signs is signed anew.
        clients = Signer(spec.key.encode(), spec.signature_scheme)
        kernel = sign_with(self._key)
        self.splice = Splice(self._ports.dial, clients=clients, kernel=kernel, output=spec.output, limits=limits)

    async def start(self, name: str, channels: Path) -> dict[str, Any]:
        """Start the kernel, or make the one that runs its own; then let clients in.

        :param name: the kernelspec of the image.
        :param channels: the path its channels' sockets start with.
        :return: the connection info for clients, without the key.
        :raise GuestError: the image has no such kernel, or it ended, or did not take its identity.
        """
        env = dict(entry.split("=", 1) for entry in self._spec.env)
        if self._is_ready:
            await resync_kernel(self._agent, self._key, env=env, cwd=WORK)
        else:
            arguments = list(self._spec.arguments)
            await self._agent.request("kernel.start", name=name, key=self._key, arguments=arguments, env=env, cwd=WORK)
            await self._wait_listening()
        # SECURITY: only now: nobody reaches a kernel that shares its random states with others.
        if self._spec.transport == "ipc":
            info = self.splice.bind_ipc(channels)
        else:
            info = self.splice.bind_tcp("127.0.0.1", self._spec.ports)
        self._ports.dial_ahead()
        return info | {"signature_scheme": self._spec.signature_scheme, "kernel_name": name}

    async def follow_log(self, program: Program) -> None:
        """Have what its process writes kept and told as a program's output is, for as long as there is a guest.

        :raise GuestError: the guest broke the contract.
        """
        try:
            stream = await self._agent.open("log")
        except LostError:
            return  # it ends, and who waits for that says why
        with contextlib.closing(stream):
            await program.follow(stream)

    async def close(self) -> None:
        """End all connections and let nobody in any more."""
        await self.splice.close()
        await self._ports.close()

    async def ended(self, code: int, cause: Cause) -> Cause:
        """Take note that the kernel's process has ended: its clients' connections close, the listeners stay.

        :return: the cause, without a name where the host had told it to end.
        """
        if not self._exit.done():
            self._exit.set_result(code)
        cause = Cause() if self._was_told_to_end else cause
        await self.say_last(cause)
        await self.splice.drop_connections()
        await self._ports.close()
        return cause

    async def say_last(self, cause: Cause) -> None:
        """Let the people at the channels know why it ends, and end their cells; nothing where the cause has no name."""
        if not cause.death:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.splice.say(cause.reason)
                await self.splice.end_cells(_ENDED, cause.reason)

    async def write_missed(self, path: Path) -> dict[str, Any]:
        """Write what it said while nobody heard it, a message a line: ``{channel, parts: [base64], follows_cut}``.

        :return: ``is_cut``: whether that is not all.
        :raise HostError: the disk refuses.
        """
        missed = await self.splice.take_missed()
        try:
            with path.open("w") as file:
                for message in (message for each in missed for message in each.messages()):
                    parts = [base64.b64encode(part).decode() for part in message.parts]
                    line = {"channel": message.channel, "parts": parts, "follows_cut": message.follows_cut}
                    file.write(json.dumps(line) + "\n")
        except OSError as exc:
            raise HostError(f"cannot keep what the kernel said: {exc}", hint="free some space") from exc
        return {"is_cut": any(each.is_cut for each in missed)}

    async def signal(self, number: int) -> None:
        """Signal the kernel's process group."""
        self._was_told_to_end = self._was_told_to_end or number in (_SIGKILL, _SIGTERM)
        await self._agent.request("kernel.signal", signal=number)

    async def interrupt(self) -> None:
        """Interrupt the cell that runs.

        :raise LostError: the guest does not answer; not soon, at least.
        """
        await self._agent.request("kernel.signal", signal=_SIGINT, deadline_s=_INTERRUPT_S)

    async def _wait_listening(self) -> None:
        # ipykernel binds its heartbeat last (IPKernelApp.initialize).
        listening = asyncio.create_task(self._ports.connect("hb", wait_s=LISTEN_S))
        racing: list[asyncio.Future[Any]] = [listening, self._exit]
        try:
            await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            if self._exit.done():
                raise GuestError(f"the kernel ended while it started (exit code {self._exit.result()})")
            listening.result().close()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
