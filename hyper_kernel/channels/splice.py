"""Splices: each client connection is carried to the kernel's port in the guest, read and signed anew on its way.

One guest stream per client connection keeps ZeroMQ's identities, subscriptions and welcome messages as they are: a
proxy at ZeroMQ's level would break them. Nothing is said here that a peer has not said: what passes is a peer's own
bytes, but for the signatures.
"""

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hyper_kernel.channels.message import Resigner, pass_small, pass_subscription
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import MAX_MESSAGE, SUBSCRIBER, Codec, ZmtpError
from hyper_kernel.errors import HostError, HyperError

log = logging.getLogger(__name__)

#: The channels in the order of their ``ipc`` numbers.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_CHUNK = 128 * 1024
#: Connections a kernel's channels carry at a time; each client needs a handful.
MAX_CONNECTIONS = 200
#: What they may hold or be sending at a time, all together: no two of them the longest message.
MAX_BACKLOG = 2 * MAX_MESSAGE

Dial = Callable[[str], Awaitable[socket.socket]]


class Splice:
    """Listeners for the five channels, and the connections they carry.

    :param dial: connects to a channel of the kernel; it waits while the kernel starts.
    :param clients: the key that clients sign with. SECURITY: the guest sees neither it nor what it signed.
    :param kernel: the key that the kernel signs with.
    """

    def __init__(self, dial: Dial, *, clients: Signer, kernel: Signer) -> None:
        self._dial = dial
        self._clients = clients
        self._kernel = kernel
        self._backlog = 0
        self._listeners: dict[str, socket.socket] = {}
        self._accepting: dict[str, asyncio.Task[None]] = {}
        self._carried: set[asyncio.Task[None]] = set()
        self._paths: list[Path] = []
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        passed = f"in={self.bytes_in} out={self.bytes_out}"
        return f"<Splice connections={len(self._carried)} holds={self._backlog} {passed}>"

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

    async def drop_connections(self) -> None:
        """Close what is carried now, as a kernel's end does; the listeners stay and clients come back by themselves."""
        carried = tuple(self._carried)
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    async def close(self) -> None:
        """Close everything and remove the sockets' files."""
        for channel in tuple(self._listeners):
            self._close_listener(channel)
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
            task = asyncio.create_task(self._carry(channel, client))
            self._carried.add(task)
            task.add_done_callback(self._carried.discard)

    async def _carry(self, channel: str, client: socket.socket) -> None:
        with client:
            _no_delay(client)
            try:
                kernel = await self._dial(channel)
            except (HyperError, OSError) as exc:
                # The client sees its connection close and dials again, as with a kernel that is not up yet.
                log.info("no connection to the kernel's %s: %s", channel, exc)
                return
            with kernel:
                await self._carry_both(channel, client, kernel)

    async def _carry_both(self, channel: str, client: socket.socket, kernel: socket.socket) -> None:
        up = asyncio.create_task(self._pump(client, kernel, self._codec(channel, outward=False), outward=False))
        down = asyncio.create_task(self._pump(kernel, client, self._codec(channel, outward=True), outward=True))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            up.cancel()
            down.cancel()
            results = await asyncio.gather(up, down, return_exceptions=True)
        for peer, result in zip(("a client", "the kernel"), results, strict=True):
            if isinstance(result, ZmtpError):
                log.warning("ended a connection to %s for what %s sent: %s", channel, peer, result)
            elif isinstance(result, Exception):
                raise result

    def _codec(self, channel: str, *, outward: bool) -> Codec:
        """What may pass on a channel. SECURITY: a guest is held to its part; nothing else of it reaches a client."""
        if channel == "hb":
            return Codec(pass_small)
        if outward:
            return Codec(Resigner(self._kernel, self._clients, _refuse))
        if channel == "iopub":
            return Codec(pass_subscription, SUBSCRIBER)
        # As a kernel does: it drops what has the wrong key and goes on.
        forged = "dropped messages to %s that are not signed with the clients' key"
        return Codec(Resigner(self._clients, self._kernel, functools.partial(log.warning, forged, channel)))

    async def _pump(self, source: socket.socket, sink: socket.socket, codec: Codec, *, outward: bool) -> None:
        loop, buffer = asyncio.get_running_loop(), bytearray(_CHUNK)
        view, held = memoryview(buffer), 0
        try:
            with contextlib.suppress(OSError):
                while count := await loop.sock_recv_into(source, buffer):
                    held += count
                    self._charge(count)
                    for chunk in codec.feed(view[:count]):
                        await loop.sock_sendall(sink, chunk)
                        if outward:
                            self.bytes_out += len(chunk)
                        else:
                            self.bytes_in += len(chunk)
                    self._charge(codec.held - held)
                    held = codec.held
                    # SECURITY: neither call above waits while it need not: who sends faster than this reads must not
                    # keep all others of this loop from their turn.
                    await asyncio.sleep(0)
        finally:
            self._backlog -= held
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _charge(self, count: int) -> None:
        self._backlog += count
        # SECURITY: a cap for one message is none for many connections that each hold most of one.
        if self._backlog > MAX_BACKLOG:
            raise ZmtpError(f"all connections together hold over {MAX_BACKLOG} bytes")


def _refuse() -> None:
    raise ZmtpError("a message that is not signed with the kernel's key")


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
