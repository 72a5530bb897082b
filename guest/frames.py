"""Frames of ``wire`` over a blocking socket."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from hyper_kernel import wire
from hyper_kernel.wire import Type

_READ = 64 * 1024
_HEADER = 5
_FINISH_S = 5.0


class Frames:
    """A connected socket that carries frames: one reader, any number of writers.

    :param sock: blocking; owned from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = wire.Decoder()
        self._writing = threading.Lock()

    def send(self, kind: Type, payload: bytes | dict[str, Any] = b"") -> None:
        """Send one frame; a slow peer slows the caller.

        :raise OSError: the connection is gone.
        """
        frame = wire.pack(kind, payload)
        with self._writing:
            self.sock.sendall(frame)

    def receive_one(self) -> tuple[Type, dict[str, Any]]:
        """The next frame, which carries a JSON object, and not a byte more (plain bytes may follow).

        :raise EOFError: the peer closed.
        :raise WireError: the peer broke the contract.
        """
        header = self._read_exactly(_HEADER)
        length = int.from_bytes(header[:4], "big")
        for kind, payload in self._decoder.feed(header):
            return kind, wire.parse(kind, payload)
        for kind, payload in self._decoder.feed(self._read_exactly(length)):
            return kind, wire.parse(kind, payload)
        raise wire.WireError("a frame did not end where it said")

    def read(self) -> Iterator[tuple[Type, bytes]]:
        """All frames until the peer closes or the connection breaks.

        :raise WireError: the peer broke the contract.
        """
        while (frames := self.feed()) is not None:
            yield from frames

    def feed(self) -> list[tuple[Type, bytes]] | None:
        """The frames that one read completes, or None when the peer is gone.

        :raise WireError: the peer broke the contract.
        """
        try:
            data = self.sock.recv(_READ)
        except OSError:
            return None
        return list(self._decoder.feed(data)) if data else None

    def end(self) -> None:
        """End both directions; what was sent still arrives, and a thread that reads here wakes up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Close once the peer has taken what was sent: what it still sends is read and dropped, for a few seconds."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(_FINISH_S)
            while self.sock.recv(_READ):
                pass
        self.close()

    def close(self) -> None:
        """End and close the socket."""
        self.end()
        self.sock.close()

    def _read_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self.sock.recv(count - len(data))
            except OSError as exc:
                raise EOFError(str(exc)) from exc
            if not part:
                raise EOFError("the peer closed the connection")
            data += part
        return bytes(data)
