"""A connection to a program in a sandbox: its input, and its output taken apart again."""

import contextlib
import http.client
import io
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct(">BxxxI")
_READ = 64 * 1024
STDOUT, STDERR = 1, 2


class Stream:
    """An attached program.

    :param sock: owned from here on.
    :param file: reads from it what HTTP has left.
    :param multiplexed: whether output comes in frames (no terminal).
    """

    def __init__(self, sock: socket.socket, file: io.BufferedIOBase, *, multiplexed: bool) -> None:
        self._sock = sock
        self._file = file
        self._multiplexed = multiplexed

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Output until the program ends, as ``(1 or 2, bytes)``; 2 is standard error."""
        return demultiplex(self._file) if self._multiplexed else read_raw(self._file)

    def send(self, data: bytes) -> None:
        """Send input.

        :raise OSError: the program is gone.
        """
        self._sock.sendall(data)

    def close_stdin(self) -> None:
        """End the input; output goes on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave; a reader in another thread ends."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Exec:
    """A program started in a running sandbox: its id, for its size and exit code, and its stream."""

    id: str
    stream: Stream


def demultiplex(file: io.BufferedIOBase | http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    """The pieces of Docker's multiplexed stream; ends with the stream, wherever it breaks off."""
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        number, length = _HEADER.unpack(header)
        while length:
            data = file.read(min(length, _READ))
            if not data:
                return
            length -= len(data)
            yield number, data


def read_raw(file: io.BufferedIOBase | http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    """The pieces of a terminal's stream, as they come."""
    try:
        while data := file.read1(_READ):
            yield STDOUT, data
    except ConnectionError:
        return
