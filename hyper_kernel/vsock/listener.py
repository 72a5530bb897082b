"""Host ports that the guest may connect to, for the user end."""

import asyncio
import socket

from hyper_kernel.errors import ConflictError, GuestError

#: Connections to one listener that nobody accepted yet.
BACKLOG = 64


class HostListener:
    """One port; see ``Listener``."""

    def __init__(self, ports: "Ports", port: int) -> None:
        self.port = port
        self._ports = ports
        self._waiting: asyncio.Queue[socket.socket | None] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<HostListener port={self.port} waiting={self._waiting.qsize()}>"

    @property
    def is_full(self) -> bool:
        """Whether the backlog is used up."""
        return self._waiting.qsize() >= BACKLOG

    def offer(self, sock: socket.socket) -> None:
        """Put a connected socket into the backlog."""
        self._waiting.put_nowait(sock)

    async def accept(self) -> socket.socket:
        """See ``Listener``."""
        sock = await self._waiting.get()
        if sock is None:
            self._waiting.put_nowait(None)  # for whoever else waits, and whoever asks again
            raise GuestError(f"the listener on vsock port {self.port} is closed")
        return sock

    def close(self) -> None:
        """See ``Listener``."""
        self._ports.forget(self)
        while not self._waiting.empty():
            sock = self._waiting.get_nowait()
            if sock is not None:
                sock.close()
        self._waiting.put_nowait(None)


class Ports:
    """The listeners of one end. They outlive the device."""

    def __init__(self) -> None:
        self._listeners: dict[int, HostListener] = {}

    def listen(self, port: int) -> HostListener:
        """Open a port.

        :raise ConflictError: it is open already.
        """
        if port in self._listeners:
            raise ConflictError(f"vsock port {port} has a listener already")
        listener = self._listeners[port] = HostListener(self, port)
        return listener

    def find(self, port: int) -> HostListener | None:
        """The listener on a port, if there is one."""
        return self._listeners.get(port)

    def forget(self, listener: HostListener) -> None:
        """Close a port; called by its listener."""
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]

    def close(self) -> None:
        """Close all ports."""
        for listener in list(self._listeners.values()):
            listener.close()
