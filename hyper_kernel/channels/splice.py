"""Splices: each client connection is carried to the kernel's port in the guest, read and signed anew on its way.

One guest stream per client connection keeps ZeroMQ's identities, subscriptions and welcome messages as they are: a
proxy at ZeroMQ's level would break them. What passes is what a peer said, as far as the firewall lets it; the shim adds
a message of its own only where a limit, or the kernel's end, has to be told.
"""

import asyncio
import functools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hyper_kernel.channels.cells import Cells
from hyper_kernel.channels.connection import Connection, Traffic
from hyper_kernel.channels.firewall import Firewall
from hyper_kernel.channels.message import MAX_HEAD, Resigner, pass_small, pass_subscription
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.missed import Missed
from hyper_kernel.channels.packet import compose
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import SUBSCRIBER, Codec, ZmtpError
from hyper_kernel.errors import HostError, HyperError
from hyper_kernel.policy.output import OutputPolicy
from hyper_kernel.spec import Limits

log = logging.getLogger(__name__)

#: The channels in the order of their ``ipc`` numbers.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
#: Connections a kernel's channels carry at a time; each client needs a handful.
MAX_CONNECTIONS = 200

NO_LIMITS = Limits()
_FORGED = "dropped messages to %s that are not signed with the clients' key"

Dial = Callable[[str], Awaitable[socket.socket]]


class Splice:
    """Listeners for the five channels, and the connections they carry.

    :param dial: connects to a channel of the kernel; it waits while the kernel starts.
    :param clients: the key that clients sign with. SECURITY: the guest sees neither it nor what it signed.
    :param kernel: the key that the kernel signs with.
    :param output: what becomes of what it shows: ``sanitize`` or ``trusted``.
    :param limits: of what a cell shows.
    """

    def __init__(
        self, dial: Dial, *, clients: Signer, kernel: Signer, output: str = "sanitize", limits: Limits = NO_LIMITS
    ) -> None:
        self._dial = dial
        self._clients = clients
        self._kernel = kernel
        self._limits = limits
        self._listeners: dict[str, socket.socket] = {}
        self._accepting: dict[str, asyncio.Task[None]] = {}
        self._carried: dict[asyncio.Task[None], Connection] = {}
        self._saying: set[asyncio.Task[None]] = set()
        self._paths: list[Path] = []
        #: The cells that clients asked the kernel to run.
        self.cells = Cells(limits.output_bytes)
        self.traffic = Traffic()
        self.firewall = Firewall(OutputPolicy(output), self.cells, self._say_over)
        #: Called when the kernel broke the rules of a channel, with what it did; that connection has ended.
        self.on_violation: Callable[[str], None] = lambda what: None

    def __repr__(self) -> str:
        passed = f"in={self.traffic.inward} out={self.traffic.outward}"
        return f"<Splice connections={len(self._carried)} holds={self.traffic.held} {passed}>"

    @property
    def connections(self) -> list[Connection]:
        """Those that are carried now."""
        return list(self._carried.values())

    def bind_ipc(self, base: Path) -> dict[str, Any]:
        """Listen on Unix sockets ``<base>-1`` to ``<base>-5``; the connection info for clients.

        Safe to call again: jupyter_client unlinks the sockets' files on every restart of a kernel, so those that are
        gone are bound anew.

        :raise HostError: the folder refuses.
        """
        info: dict[str, Any] = {"transport": "ipc", "ip": str(base)}
        for number, channel in enumerate(CHANNELS, 1):
            path = Path(f"{base}-{number}")
            info[f"{channel}_port"] = number
            if channel in self._listeners and path.exists():
                continue
            self._close_listener(channel)
            self._listen(channel, _bind_unix(path))
            self._paths.append(path)
        return info

    def bind_tcp(self, ip: str, ports: Sequence[int]) -> dict[str, Any]:
        """Listen on TCP ports of ``ip``; the connection info for clients.

        :param ports: one per channel, as an earlier call gave them; empty: free ones.
        :raise HostError: the address is not ours, or a port is in use.
        """
        info: dict[str, Any] = {"transport": "tcp", "ip": ip}
        for channel, port in zip(CHANNELS, ports or [0] * len(CHANNELS), strict=True):
            if channel not in self._listeners:
                self._listen(channel, _bind_tcp(ip, port))
            info[f"{channel}_port"] = self._listeners[channel].getsockname()[1]
        return info

    async def say(self, text: str) -> None:
        """Show a line as standard error of the cell that runs, or of the one that ran last, in all front ends."""
        await self._publish("stream", self.cells.last_header, {"name": "stderr", "text": f"{text}\n"})

    async def end_cells(self, name: str, reason: str) -> None:
        """Answer all cells that wait with an error, since the kernel will not; returns within seconds.

        :param name: of the error, as a Python exception would have.
        """
        error: dict[str, Any] = {"ename": name, "evalue": reason, "traceback": [f"{name}: {reason}"]}
        for cell in self.cells.waiting:
            await self._publish("error", cell.header, error)
            if cell.asker:
                reply = error | {"status": "error", "execution_count": None, "user_expressions": {}, "payload": []}
                await cell.asker.put(compose(self._clients, "execute_reply", cell.header, reply))
            await self._publish("status", cell.header, {"execution_state": "idle"})
        self.cells.clear()

    async def take_missed(self) -> list[Missed]:
        """What the kernel said while nobody heard it; from here on that is not kept any more."""
        missed = {task: each.missed for task, each in self._carried.items() if each.missed}
        for task in missed:
            task.cancel()
        await asyncio.gather(*missed, return_exceptions=True)
        return list(missed.values())

    async def drop_connections(self) -> None:
        """Close what is carried now, as a kernel's end does; the listeners stay and clients come back by themselves."""
        self.cells.clear()
        carried = tuple(self._carried)
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    async def close(self) -> None:
        """Close everything and remove the sockets' files."""
        for channel in tuple(self._listeners):
            self._close_listener(channel)
        for task in tuple(self._saying):
            task.cancel()
        await self.drop_connections()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _listen(self, channel: str, listener: socket.socket) -> None:
        listener.setblocking(False)
        listener.listen(MAX_CONNECTIONS)
        self._listeners[channel] = listener
        self._accepting[channel] = asyncio.create_task(self._accept(channel, listener))

    def _close_listener(self, channel: str) -> None:
        if listener := self._listeners.pop(channel, None):
            self._accepting.pop(channel).cancel()
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def _accept(self, channel: str, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            if len(self._carried) >= MAX_CONNECTIONS:
                log.warning("refused a connection to %s: %d are open", channel, len(self._carried))
                client.close()
                continue
            client.setblocking(False)
            connection = Connection(
                channel, client, self.traffic, lambda what: self.on_violation(what), self._is_last_to_hear
            )
            task = asyncio.create_task(self._carry(connection, client))
            self._carried[task] = connection
            task.add_done_callback(self._forget)

    def _is_last_to_hear(self, connection: Connection) -> bool:
        """Whether what the kernel says on a connection whose client has left is heard nowhere else."""
        if connection.channel == "shell":
            return any(cell.asker is connection for cell in self.cells.waiting)
        return connection.channel == "iopub" and not self._is_heard

    @property
    def _is_heard(self) -> bool:
        """Whether somebody hears what the kernel publishes."""
        heard = (each for each in self._carried.values() if each.channel == "iopub")
        return any(each.missed or not each.has_left for each in heard)

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._carried.pop(task)
        self.cells.leave(connection, is_heard=self._is_heard)

    async def _carry(self, connection: Connection, client: socket.socket) -> None:
        channel = connection.channel
        with client:
            _no_delay(client)
            try:
                kernel = await self._dial(channel)
            except (HyperError, OSError) as exc:
                # The client sees its connection close and dials again, as with a kernel that is not up yet.
                log.info("no connection to the kernel's %s: %s", channel, exc)
                return
            with kernel:
                meter = Meter(self.cells, self._limits.output_bytes_per_s)
                inward, outward = self._to_kernel(channel, connection), self._to_client(channel, meter)
                await connection.carry(kernel, inward, outward, meter)

    def _to_kernel(self, channel: str, connection: Connection) -> Codec:
        if channel == "hb":
            return Codec(pass_small)
        if channel == "iopub":
            return Codec(pass_subscription, SUBSCRIBER)
        # As a kernel does: it drops what has the wrong key and goes on.
        forged = functools.partial(log.warning, _FORGED, channel)
        judge = self.firewall.from_client(channel, connection)
        return Codec(Resigner(self._clients, self._kernel, forged, judge))

    def _to_client(self, channel: str, meter: Meter) -> Codec:
        """What may pass on a channel. SECURITY: a guest is held to its part; nothing else of it reaches a client."""
        if channel == "hb":
            return Codec(pass_small)
        judge = self.firewall.from_kernel(channel, meter)
        return Codec(Resigner(self._kernel, self._clients, _refuse, judge, self._say_long))

    async def _publish(self, msg_type: str, parent: dict[str, Any], content: dict[str, Any]) -> None:
        message = compose(self._clients, msg_type, parent, content, topic=msg_type)
        heard = [each for each in self._carried.values() if each.channel == "iopub"]
        await asyncio.gather(*(connection.put(message) for connection in heard))

    def _say_over(self) -> None:
        limit = _mib(self._limits.output_bytes)
        self._spawn_say(f"[output limit: this cell has shown more than {limit}; what follows is left out]")

    def _say_long(self, size: int) -> None:
        self._spawn_say(f"[an output of {_mib(size)} is left out: one may have {_mib(MAX_HEAD)}]")

    def _spawn_say(self, text: str) -> None:
        task = asyncio.create_task(self.say(text))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)


def _refuse() -> None:
    raise ZmtpError("a message that is not signed with the kernel's key")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.3g} MiB"


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        # SECURITY: whoever can connect can run code in the sandbox and read its output: this user alone.
        path.chmod(0o600)
    except OSError as exc:
        listener.close()
        raise HostError(f"cannot listen on {path}: {exc}") from exc
    return listener


def _bind_tcp(ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
    except OSError as exc:
        listener.close()
        raise HostError(f"cannot listen on {ip} port {port}: {exc.strerror}", hint="use the transport ipc") from exc
    return listener


def _no_delay(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
