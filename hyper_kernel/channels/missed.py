"""What a kernel says while its clients are away, kept for those who come back."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hyper_kernel.channels.signing import Buffer

#: So much is kept of each connection, in bytes: of what comes first, and of what comes last.
MAX_MISSED, MAX_LAST = 16 << 20, 1 << 20


@dataclass(frozen=True, slots=True)
class MissedMessage:
    """A message as a client would have got it: its parts, signed with the clients' key.

    :ivar follows_cut: whether others, which came before it, are lost.
    """

    channel: str
    parts: tuple[bytes, ...]
    follows_cut: bool = False

    @property
    def size(self) -> int:
        """Of its parts, in bytes."""
        return sum(map(len, self.parts))


class Missed:
    """The messages that one connection's client has missed, in the order in which they came.

    Where they are too many, the first and the last are kept: how a cell ended is told with them.

    :param channel: the connection's.
    :param is_midway: the client has got a part of a message: what is left of it is of no use.
    """

    def __init__(self, channel: str, *, is_midway: bool) -> None:
        self.channel = channel
        self._is_midway = is_midway
        self._first = bytearray()
        #: Where the last whole message of these ends.
        self._whole = 0
        self._is_full = False
        self._last: deque[MissedMessage] = deque()
        self._last_size = 0
        #: What has come since a message ended; None: too much to be kept.
        self._begun: bytearray | None = None
        #: Whether something was lost.
        self.is_cut = is_midway

    def add(self, chunk: Buffer) -> None:
        """Keep what passes."""
        if self._is_midway:
            return
        # SECURITY: a guest can say without end what nobody hears.
        if not self._is_full:
            self._first += chunk
            if len(self._first) > MAX_MISSED:
                self._is_full = self.is_cut = True
                del self._first[self._whole :]
        elif self._begun is not None:
            self._begun += chunk
            if len(self._begun) > MAX_MISSED:
                # What is kept of the end has no gap.
                self._begun, self._last_size = None, 0
                self._last.clear()

    def end_message(self) -> None:
        """What was added last ends a message."""
        if self._is_midway:
            self._is_midway = False
        elif not self._is_full:
            self._whole = len(self._first)
        else:
            for message in _split(self.channel, self._begun or b""):
                self._last.append(message)
                self._last_size += message.size
            while self._last_size > MAX_LAST:
                self._last_size -= self._last.popleft().size
            self._begun = bytearray()

    def messages(self) -> Iterator[MissedMessage]:
        """All that is kept and whole."""
        yield from _split(self.channel, self._first[: self._whole])
        for number, message in enumerate(self._last):
            yield replace(message, follows_cut=number == 0)


def _split(channel: str, data: Buffer) -> Iterator[MissedMessage]:
    """Whole messages that follow each other."""
    at, parts = 0, []
    while at < len(data):
        flags, size, at = _read_header(data, at)
        if not flags & 4:  # no command
            parts.append(bytes(data[at : at + size]))
            if not flags & 1:
                yield MissedMessage(channel, tuple(parts))
                parts = []
        at += size


def _read_header(data: Buffer, at: int) -> tuple[int, int, int]:
    """A frame's flags and size, and where its body begins; the firewall has written it, so it is right."""
    if data[at] & 2:
        return data[at], int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
    return data[at], data[at + 1], at + 2
