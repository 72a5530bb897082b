"""Where a running, greeted machine comes from. Sources compose: each is small and stands alone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import GuestError, HostError, HyperError
from hyper_kernel.host.timing import step
from hyper_kernel.hypervisor import Hypervisor, Machine, MachineConfig, Ram
from hyper_kernel.limits import BOOT_DEADLINE_S
from hyper_kernel.sandbox.kernel import KernelPorts
from hyper_kernel.vsock.end import VsockEnd

log = logging.getLogger(__name__)

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A machine whose agent has said hello; not yet its own (see :meth:`Agent.resync`).

    ``kernel_key`` is what the Jupyter kernel that runs in it already signs with; empty where none does. Such a kernel
    is not its own either (see ``sandbox.kernel``). ``ports`` has connections to it that were made ahead.
    """

    machine: Machine
    end: VsockEnd
    agent: Agent
    kernel_key: str = ""
    ports: KernelPorts | None = None


class Source(Protocol):
    """Gives guests."""

    def start(
        self, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None = None
    ) -> AbstractAsyncContextManager[Guest]:
        """A greeted guest; leaving the context ends it and leaves nothing behind.

        :param config: the machine.
        :param folder: where its console goes.
        :param on_event: gets the agent's events.
        :param kernel: the image's kernelspec whose kernel is welcome to run in it already.
        :raise HostError: the machine does not start.
        :raise GuestError: it starts but its agent does not answer; the message holds the console's last lines.
        """


class ColdSource:
    """Boots a machine from power-on.

    :param hypervisor: the driver.
    :param open_end: makes the host's end of a vsock device.
    """

    def __init__(self, hypervisor: Hypervisor, open_end: Callable[[], AbstractAsyncContextManager[VsockEnd]]) -> None:
        self.hypervisor = hypervisor
        self._open_end = open_end

    @asynccontextmanager
    async def start(
        self,
        config: MachineConfig,
        folder: Path,
        on_event: OnEvent,
        kernel: str | None = None,
        *,
        ram: Ram | None = None,
    ) -> AsyncIterator[Guest]:
        """See :class:`Source`; no kernel runs in it.

        :param ram: memory to use, or memory and state to go on from instead of power-on.
        """
        async with AsyncExitStack() as stack:
            end = await stack.enter_async_context(self._open_end())
            with step(log, "start the hypervisor"):
                machine = await stack.enter_async_context(self.hypervisor.start(config, folder, ram))
            end.attach(machine.pid)
            with step(log, "plug vsock"):
                await machine.plug_vsock(end.device())
                await machine.resume()
            with step(log, "meet the agent"):
                agent = await _meet(end, machine, on_event)
            stack.push_async_callback(agent.close)
            yield Guest(machine=machine, end=end, agent=agent)


async def _meet(end: VsockEnd, machine: Machine, on_event: OnEvent) -> Agent:
    """The agent's hello, or the reason why none came."""
    hello = asyncio.create_task(Agent.meet(end, on_event=on_event, deadline_s=BOOT_DEADLINE_S))
    ended = asyncio.create_task(machine.wait_exit())
    try:
        await asyncio.wait({hello, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise HostError(_blame(machine, f"the machine ended while booting: {ended.result()}"))
        if problem := hello.exception():
            raise GuestError(_blame(machine, f"the guest did not get ready: {problem}")) from problem
        return hello.result()
    except HyperError:
        log.error("failed machine: %s", machine.command)
        raise
    finally:
        hello.cancel()
        ended.cancel()
        await asyncio.gather(hello, ended, return_exceptions=True)


def _blame(machine: Machine, problem: str) -> str:
    return f"{problem}\n--- the last of its console ---\n{machine.console_tail()}"
