"""QEMU machines, driven by QMP over an inherited socketpair."""

import asyncio
import logging
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError, Runstate

from hyper_kernel.errors import HostError
from hyper_kernel.host.console import Console
from hyper_kernel.host.jail import Jailed, check_made, start_jailed
from hyper_kernel.host.memory import open_memory
from hyper_kernel.hypervisor import Ended, MachineConfig, MachineEnd, Ram, VsockDevice
from hyper_kernel.qemu.argv import BINARY, RECIPE, Inherited, argv
from hyper_kernel.qemu.jail import qemu_jail

log = logging.getLogger(__name__)

#: QEMU greets within tens of milliseconds; a busy host may take its time.
_GREETING_S = 20.0
_COMMAND_S = 20.0
_EVENTS = {"capability": "events", "state": True}
#: The reasons of QMP's SHUTDOWN event (qapi/run-state.json, ShutdownCause).
_ENDS = {
    "guest-shutdown": MachineEnd(Ended.OFF, Ended.OFF),
    "guest-reset": MachineEnd(Ended.RESET, Ended.RESET),
    "guest-panic": MachineEnd(Ended.PANIC, Ended.PANIC),
    "host-qmp-quit": MachineEnd(Ended.OFF, Ended.OFF),
    "host-signal": MachineEnd(Ended.LOST, "QEMU was told to end by a signal"),
}


class Qemu:
    """The QEMU driver of :class:`hyper_kernel.hypervisor.Hypervisor`."""

    def build(self) -> str:
        """Which QEMU this host has, by its path, size and time of change, and which command line it gets.

        :raise HostError: it is not installed.
        """
        binary = shutil.which(BINARY)
        if binary is None:
            raise HostError(f"{BINARY} is not installed", hint="run: hyper doctor")
        facts = Path(binary).stat()
        return f"{binary} {facts.st_size} {facts.st_mtime_ns} {RECIPE}"

    @asynccontextmanager
    async def start(self, config: MachineConfig, folder: Path, ram: Ram | None = None) -> AsyncIterator["QemuMachine"]:
        """A paused machine; see :class:`hyper_kernel.hypervisor.Hypervisor`."""
        async with AsyncExitStack() as stack:
            console = stack.enter_context(Console(folder / "console.log"))
            jail = qemu_jail(config)
            monitor, theirs = socket.socketpair()
            stack.callback(monitor.close)
            monitor.setblocking(False)
            with _inherit(config, console, ram, theirs) as fds:
                words = argv(config, fds, str(jail.readable[0]))
                output, said = console.host_fd, console.tail
                starting = start_jailed(jail, words, output=output, said=said, pass_fds=fds.numbers)
                process = await stack.enter_async_context(starting)
            machine = QemuMachine(process, console)
            stack.push_async_callback(machine.disconnect)
            await machine.connect(monitor)
            if ram and ram.state:
                await machine.restore(ram.state)
            yield machine


class QemuMachine:
    """One QEMU process; see :class:`hyper_kernel.hypervisor.Machine`."""

    def __init__(self, process: Jailed, console: Console) -> None:
        self._process = process
        self._console = console
        self._qmp = QMPClient("hyper")
        self._end: MachineEnd | None = None
        self._has_chardev = False
        # SECURITY: of QEMU's events only this one is kept; some others a guest can cause without end.
        self._qmp.events.names = {"SHUTDOWN"}

    def __repr__(self) -> str:
        return f"<QemuMachine pid={self.pid} qmp={self._qmp.runstate.name}>"

    @property
    def pid(self) -> int:
        """QEMU's process id, as the host numbers it."""
        return self._process.pid

    @property
    def command(self) -> str:
        """QEMU's command line with the jail around it, quoted for a shell."""
        return self._process.command

    async def connect(self, monitor: socket.socket) -> None:
        """Take QMP's greeting.

        :raise JailError: there is no jail for it on this host.
        :raise HostError: QEMU ended instead; with its own words.
        """
        greeting = asyncio.create_task(self._qmp.connect(monitor))
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({greeting, ended}, timeout=_GREETING_S, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done() and not greeting.exception():
                return
            if greeting.done():  # its socket closed: it is about to have ended
                await asyncio.wait({ended}, timeout=_COMMAND_S)
            how = f"ended with {ended.result()}" if ended.done() else f"did not greet within {_GREETING_S:g} s"
            log.error("failed command: %s", self.command)
            check_made(self._own_words())
            raise HostError(f"QEMU {how}: {self._own_words()}", hint="run: hyper doctor")
        finally:
            # Awaited, also when we are cancelled: a disconnect beside a connect under way breaks the client.
            greeting.cancel()
            ended.cancel()
            await asyncio.gather(greeting, ended, return_exceptions=True)

    async def plug_vsock(self, device: VsockDevice) -> None:
        """Hot-plug a vsock device, backed by our vhost-user backend or by the host's kernel."""
        await self._give_fd("vsock", device.fd)
        options: dict[str, Any] = {"driver": device.driver, "id": "vsock0", "addr": "0x10"}
        if device.driver.startswith("vhost-user"):
            address = {"type": "fd", "data": {"str": "vsock"}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            await self._execute("chardev-add", {"id": "vsock", "backend": backend})
            self._has_chardev = True
            await self._execute("device_add", options | {"chardev": "vsock"})
        else:
            await self._execute("device_add", options | {"vhostfd": "vsock", "guest-cid": device.cid})
        device.let_go()

    async def unplug_vsock(self) -> None:
        """Take the device away; its back end can then be replaced."""
        async with self._expecting("DEVICE_DELETED") as events:
            await self._execute("device_del", {"id": "vsock0"})
            await events.get()
        if self._has_chardev:
            await self._execute("chardev-remove", {"id": "vsock"})
            self._has_chardev = False

    async def save(self, state: Path) -> None:
        """Stop, and save all but the memory."""
        await self.pause()
        await self._transfer("migrate", state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    async def restore(self, state: Path) -> None:
        """Take a saved state in; the machine is then paused."""
        # A descriptor of its own: a copy would share the offset with other machines that restore at once.
        await self._transfer("migrate-incoming", state, os.O_RDONLY)

    async def pause(self) -> None:
        """Stop the guest's processors."""
        await self._execute("stop")

    def move_console(self, folder: Path) -> None:
        """Keep the console's file in another folder from here on."""
        self._console.move(folder / "console.log")

    async def resume(self) -> None:
        """Let the guest run."""
        await self._execute("cont")

    async def wait_exit(self) -> MachineEnd:
        """Wait until QEMU has ended; say how."""
        code = await self._process.wait()
        while self._qmp.runstate is Runstate.RUNNING:  # what QEMU said last may be still on its way
            await self._qmp.runstate_changed()
        for event in self._qmp.events.clear():  # kept for whoever else waits
            cause = str(cast("dict[str, Any]", event["data"])["reason"])
            self._end = _ENDS.get(cause, MachineEnd(Ended.LOST, f"QEMU ended ({cause})"))
        if self._end:
            return self._end
        if code < 0:
            return MachineEnd(Ended.LOST, f"QEMU was killed by signal {-code}", -code)
        return MachineEnd(Ended.LOST, f"QEMU failed (exit code {code}): {self._own_words()}")

    def console_tail(self, lines: int = 30) -> str:
        """The last lines of the console and of QEMU's own messages."""
        return self._console.tail(lines)

    async def disconnect(self) -> None:
        """Close QMP; used by the context that started the machine."""
        with _quiet():
            await self._qmp.disconnect()

    async def _transfer(self, command: str, state: Path, flags: int) -> None:
        capability = {"capability": "x-ignore-shared", "state": True}
        await self._execute("migrate-set-capabilities", {"capabilities": [capability, _EVENTS]})
        fd = os.open(state, flags | os.O_CLOEXEC, 0o600)
        try:
            await self._give_fd("state", fd)
        finally:
            os.close(fd)
        async with self._expecting("MIGRATION") as events:
            await self._execute(command, {"uri": "fd:state"})
            while (status := cast("dict[str, Any]", (await events.get())["data"])["status"]) != "completed":
                if status == "failed":
                    raise HostError(f"QEMU's {command} failed: {self._own_words()}")

    @asynccontextmanager
    async def _expecting(self, name: str) -> AsyncIterator[EventListener]:
        """Events of one name, from before the command that causes them; the whole within one deadline."""
        try:
            with self._qmp.listener(name) as events:
                async with asyncio.timeout(_COMMAND_S):
                    yield events
        except TimeoutError as exc:
            raise HostError(f"QEMU did not report {name} within {_COMMAND_S:g} s: {self._own_words()}") from exc

    async def _give_fd(self, name: str, fd: int) -> None:
        self._qmp.send_fd_scm(fd)
        await self._execute("getfd", {"fdname": name})

    async def _execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        log.debug("--> %s %s", command, arguments or "")
        try:
            async with asyncio.timeout(_COMMAND_S):
                return await self._qmp.execute(command, arguments)
        except ExecuteError as exc:
            raise HostError(f"QEMU refuses {command}: {exc}") from exc
        except (QMPError, OSError) as exc:
            raise HostError(f"QEMU ended during {command}: {self._own_words()}") from exc
        except TimeoutError as exc:
            raise HostError(f"QEMU did not answer {command} within {_COMMAND_S:g} s") from exc

    def _own_words(self) -> str:
        return self._console.tail(5) or "it said nothing"


@contextmanager
def _inherit(config: MachineConfig, console: Console, ram: Ram | None, qmp: socket.socket) -> Iterator[Inherited]:
    """What QEMU is to inherit; closed here once it has it.

    :raise HostError: a file cannot be read, or there is no memory.
    """
    with ExitStack() as stack, qmp:
        stack.callback(console.close_far_sides)
        memory = stack.enter_context(open_memory(config.memory_mib)) if ram is None else ram.fd
        boots = ram is None or ram.state is None
        yield Inherited(
            qmp=qmp.fileno(),
            console=console.guest_fd,
            memory=memory,
            kernel=_open(stack, config.kernel, for_all=True) if boots else None,
            initrd=_open(stack, config.initrd, for_all=True) if boots else None,
            disks=tuple(_open(stack, disk) for disk in config.disks),
        )


def _open(stack: ExitStack, path: Path, *, for_all: bool = False) -> int:
    """A file of a machine, for as long as the stack holds it.

    :param for_all: QEMU, which may run as another user, is to open it anew by its descriptor.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        if for_all and not (mode := os.fstat(fd).st_mode) & stat.S_IROTH:
            os.fchmod(fd, mode | stat.S_IROTH)  # nobody else gets into the folder that it is in
    except OSError as exc:
        raise HostError(f"a file of the machine cannot be read: {exc}", hint="run: hyper setup") from exc
    return fd


@contextmanager
def _quiet() -> Iterator[None]:
    """QMP has nothing left to say when its peer is being killed."""
    try:
        yield
    except (QMPError, OSError, EOFError):
        log.debug("QMP closed", exc_info=True)
