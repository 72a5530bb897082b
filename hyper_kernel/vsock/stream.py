"""One stream: a vsock connection on one side, a socket for the rest of the program on the other."""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable

from hyper_kernel.vsock.connection import Connection, State
from hyper_kernel.vsock.packet import Shut

#: Bytes dropped at once.
_DISCARD = 1 << 16


class HangupWatch:
    """Tells when the far end of a socket is closed for good, for sockets whose end of file was read already.

    Such a socket is readable for ever, so the event loop cannot watch it; an epoll that waits for nothing still
    reports a hang-up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._poll)

    def add(self, sock: socket.socket, call: Callable[[], None]) -> None:
        """Call back once when the socket's peer is closed."""
        self._calls[sock.fileno()] = call
        self._epoll.register(sock.fileno(), 0)

    def remove(self, sock: socket.socket) -> None:
        """Forget a socket, which must still be open; one that is not watched is fine."""
        if self._calls.pop(sock.fileno(), None):
            self._epoll.unregister(sock.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for fd, _ in self._epoll.poll(0):
            call = self._calls.pop(fd, None)
            if call:
                self._epoll.unregister(fd)
                call()


class Stream:
    """Carries bytes between a connection and ``far``, the socket that the rest of the program gets.

    Towards the host at most ``BUFFER`` bytes are held (the connection's credit); towards the guest none: bytes stay
    in the socket until the guest has room, so a slow guest blocks the writer.

    :param wake: called when the stream may have something to send to the guest.
    :ivar far: the program's half, non-blocking; whoever takes it closes it.
    :ivar is_queued: for the owner's use: whether it is in a queue of streams that want to send.
    """

    def __init__(
        self,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        hangups: HangupWatch,
        wake: Callable[["Stream"], None],
    ) -> None:
        self.connection = connection
        self.is_queued = False
        self._near, self.far = socket.socketpair()
        self._near.setblocking(False)
        self.far.setblocking(False)
        self._loop = loop
        self._hangups = hangups
        self._wake = wake
        self._held = bytearray()
        self._is_reading = self._is_writing = self._has_eof = self._sent_eof = self._is_closed = False

    def __repr__(self) -> str:
        return f"<Stream {self.connection!r} held={len(self._held)}{' done' if self._is_closed else ''}>"

    @property
    def is_closed(self) -> bool:
        """Whether nothing is left to do for the program's half."""
        return self._is_closed

    def deliver(self, payload: memoryview) -> None:
        """Hand bytes of the guest on to the program, or hold them until it takes them."""
        if not self._held:
            payload = payload[self._send(payload) :]
        if payload and not self.connection.shut & Shut.RECEIVE:
            self._held += payload
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._near, self._on_writable)

    def follow(self) -> None:
        """Act on what the connection has become after a packet came."""
        connection = self.connection
        if connection.state is State.CLOSED:
            if self._held:
                self._refuse_output()
            else:
                self.close()
            return
        if connection.peer_shut & Shut.SEND and not self._held:
            self._finish()
        if connection.peer_shut & Shut.RECEIVE:
            self._refuse_output()
        if connection.room and not self._is_reading and not self._has_eof:
            self._wake(self)

    def pull(self, limit: int) -> bytes:
        """Bytes from the program for the guest: at most ``limit``, and no more than the guest has room for.

        Empty when there are none now; the stream wakes its owner when there may be some.
        """
        limit = min(limit, self.connection.room)
        if not limit or self._has_eof:
            self._pause()
            return b""
        try:
            data = self._near.recv(limit)
        except BlockingIOError:
            self._resume()
            return b""
        except ConnectionError:
            self.connection.reset()  # the program closed its half with bytes unread
            self._end_input()
            return b""
        if not data:
            self._end_input()
        return data

    def pause(self) -> None:
        """Do not watch the program's half: the guest has no buffers now."""
        self._pause()

    def close(self) -> None:
        """Drop what is held and end the program's half. Again: nothing happens."""
        if self._is_closed:
            return
        self._is_closed = True
        self._pause()
        self._stop_writing()
        self._held.clear()
        self._hangups.remove(self._near)
        self._near.close()

    def _send(self, data: memoryview | bytearray) -> int:
        """Give the program what its half takes; on failure it wants no more."""
        try:
            count = self._near.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._refuse_input(len(data))
            return 0
        self.connection.consumed(count)
        return count

    def _refuse_input(self, count: int) -> None:
        self._held.clear()
        self.connection.consumed(count)
        self.connection.shut_down(Shut.RECEIVE)
        if self.connection.state is State.CLOSED:
            self.close()

    def _refuse_output(self) -> None:
        """Let the program's writes fail (EPIPE): the guest reads no more."""
        if self._has_eof:
            return
        self._near.shutdown(socket.SHUT_RD)
        # A program that waits for room in the full socket is woken only when there is some.
        with contextlib.suppress(ConnectionError):
            while self._near.recv(_DISCARD):
                pass
        self._end_input()

    def _on_writable(self) -> None:
        count = self._send(self._held)
        del self._held[:count]
        if self._held:
            if self.connection.has_control:
                self._wake(self)
            return
        self._stop_writing()
        if not self._is_closed:
            self.follow()
        self._wake(self)

    def _on_readable(self) -> None:
        self._wake(self)

    def _on_hangup(self) -> None:
        self.connection.shut_down(Shut.BOTH)
        self._wake(self)

    def _end_input(self) -> None:
        """The program will write no more: it half-closed or closed."""
        self._has_eof = True
        self._pause()
        if self.connection.state is State.CLOSED:
            return
        poll = select.poll()
        poll.register(self._near, 0)
        if poll.poll(0):
            self.connection.shut_down(Shut.BOTH)
            return
        if not self.connection.peer_shut & Shut.RECEIVE:
            self.connection.shut_down(Shut.SEND)
        self._hangups.add(self._near, self._on_hangup)

    def _finish(self) -> None:
        if not self._sent_eof:
            self._sent_eof = True
            self._near.shutdown(socket.SHUT_WR)

    def _resume(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._near, self._on_readable)

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._near)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._near)
