"""What a kernel says while its clients are away, kept for those who come back."""

from collections.abc import Iterator
from dataclasses import dataclass

from hyper_kernel.channels.signing import Buffer

#: So much is kept of each kernel, in bytes; what comes after it is lost, and said to be.
MAX_MISSED = 16 << 20


@dataclass(frozen=True, slots=True)
class MissedMessage:
    """A message as a client would have got it: its parts, signed with the clients' key."""

    channel: str
    parts: tuple[bytes, ...]


class Missed:
    """The messages that one connection's client has missed, in the order in which they came.

    :param channel: the connection's.
    :param is_midway: the client has got a part of a message: what is left of it is of no use.
    """

    def __init__(self, channel: str, *, is_midway: bool) -> None:
        self.channel = channel
        self._is_midway = is_midway
        self._kept = bytearray()
        #: Where the last whole message ends.
        self._whole = 0
        #: Whether something was lost.
        self.is_cut = is_midway

    @property
    def is_full(self) -> bool:
        """Whether nothing more is kept."""
        return len(self._kept) > MAX_MISSED

    def add(self, chunk: Buffer) -> None:
        """Keep what passes."""
        # SECURITY: a guest can say without end what nobody hears.
        if self._is_midway or self.is_full:
            return
        self._kept += chunk
        self.is_cut = self.is_cut or self.is_full

    def end_message(self) -> None:
        """What was added last ends a message."""
        self._is_midway = False
        if not self.is_full:
            self._whole = len(self._kept)

    def messages(self) -> Iterator[MissedMessage]:
        """All that is whole."""
        at, parts = 0, []
        while at < self._whole:
            flags, size, at = _read_header(self._kept, at)
            if not flags & 4:  # no command
                parts.append(bytes(self._kept[at : at + size]))
                if not flags & 1:
                    yield MissedMessage(self.channel, tuple(parts))
                    parts = []
            at += size


def _read_header(data: bytearray, at: int) -> tuple[int, int, int]:
    """A frame's flags and size, and where its body begins; the firewall has written it, so it is right."""
    if data[at] & 2:
        return data[at], int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
    return data[at], data[at + 1], at + 2
