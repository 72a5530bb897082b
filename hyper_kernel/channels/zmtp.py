"""ZMTP 3, the protocol of ZeroMQ's connections, read in steps and without I/O.

Specified by RFC 23 (version 3.0) and RFC 37 (3.1) of rfc.zeromq.org. A step is a generator that yields where it needs
more bytes; it works on a :class:`Flow`, one direction of a connection, which holds bytes until they have been judged.

SECURITY: whatever the bytes are, a step ends in its result or in a ZmtpError, and a flow never holds more than came in
nor more than the caps below. What passes is what the grammar of RFC 37 allows: libzmq's own checks are looser.
"""

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple, TypeVar

from hyper_kernel.channels.signing import Buffer

_T = TypeVar("_T")
#: Yields when the flow's input is used up and more is needed.
Steps = Generator[None, None, _T]

#: One message, all its parts together. Twice this is as much as a browser takes in one string (V8: 2^29 - 24), and a
#: guest of the default memory (512 MiB) has no room to make a longer one.
MAX_MESSAGE = 256 << 20
#: Widgets send each of their arrays as a part of its own.
MAX_PARTS = 4096
#: One command. Jupyter's are READY (below 400 bytes) and subscriptions to a topic.
MAX_COMMAND = 64 << 10

#: Up to this many bytes, one copy costs less than one send for each frame.
_JOIN = 256 << 10
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_SIZE = 255

READY, ERROR, PING, PONG = b"\5READY", b"\5ERROR", b"\4PING", b"\4PONG"
SUBSCRIBE, CANCEL = b"\x09SUBSCRIBE", b"\6CANCEL"
#: What either peer may send between and inside messages.
HEARTBEAT = frozenset({PING, PONG})
SUBSCRIBER = HEARTBEAT | {SUBSCRIBE, CANCEL}
#: How many bytes follow a command's name.
_COMMAND_DATA = {
    READY: range(MAX_COMMAND),
    ERROR: range(1, 257),
    # SECURITY: libzmq 4.3.5 reads the time to live unchecked: a shorter PING is answered with bytes from beyond it.
    PING: range(2, 19),
    PONG: range(17),
    SUBSCRIBE: range(MAX_COMMAND),
    CANCEL: range(MAX_COMMAND),
}

_ANY = bytes(range(256))
#: What each byte of a greeting may be, and the name of its field.
_GREETING = [
    ("signature", b"\xff"),
    *[("padding", _ANY)] * 8,
    ("signature", b"\x7f"),
    ("version", b"\3"),
    ("minor version", _ANY),
    *[("mechanism", bytes([byte])) for byte in b"NULL".ljust(20, b"\0")],
    ("as-server", b"\0\1"),
    *[("filler", b"\0")] * 31,
]
#: The greeting of a peer that speaks ZMTP 3.1 in the clear.
GREETING = b"\xff".ljust(9, b"\0") + b"\x7f\3\1NULL".ljust(55, b"\0")


class ZmtpError(Exception):
    """The peer broke the protocol or went over a cap."""


class Flow:
    """One direction of a connection: what came in, what is held until it is judged, what has been let out.

    ``held`` is what was read since the last :meth:`release` or :meth:`drop`. ``can_insert`` says whether a message of
    somebody else may come after what was let out: the peers have shaken hands, and no message is out in part.
    """

    def __init__(self) -> None:
        self.held = bytearray()
        self.can_insert = False
        self._input = memoryview(b"")
        self._output: list[Buffer] = []

    def put(self, data: Buffer) -> None:
        """Give the steps their next input; they must have used up what they had."""
        assert not self._input
        self._input = memoryview(data)

    def take_output(self) -> list[Buffer]:
        """What was let out; parts of it share the memory of the last input."""
        output, self._output = self._output, []
        if len(output) > 1 and sum(map(len, output)) <= _JOIN:
            return [b"".join(output)]
        return output

    def hold(self, count: int) -> Steps[None]:
        """Read some bytes into ``held``."""
        while count:
            piece = yield from self._read(count)
            self.held += piece
            count -= len(piece)

    def let_through(self, count: int) -> Steps[None]:
        """Let bytes out as they come in."""
        while count:
            piece = yield from self._read(count)
            self._output.append(piece)
            count -= len(piece)

    def skip(self, count: int) -> Steps[None]:
        """Read bytes and forget them."""
        while count:
            count -= len((yield from self._read(count)))

    def release(self, start: int = 0) -> None:
        """Let out what is held, from ``start`` on."""
        if start:
            self._output.append(self.held[start:])
            del self.held[start:]
        elif self.held:
            self._output.append(self.held)
            self.held = bytearray()

    def drop(self) -> None:
        """Forget what is held."""
        self.held = bytearray()

    def _read(self, count: int) -> Steps[memoryview]:
        while not self._input:
            yield
        piece, self._input = self._input[:count], self._input[count:]
        return piece


class Header(NamedTuple):
    """What precedes a frame's body."""

    more: bool
    command: bool
    size: int


class Message:
    """The parts of one message, each read when it is asked for.

    ``more`` says whether there are parts left.
    """

    def __init__(self, flow: Flow, first: Header) -> None:
        self.flow = flow
        self.more = True
        self._first: Header | None = first
        self._size = self._count = 0

    def hold(self, cap: int = MAX_MESSAGE) -> Steps[slice]:
        """Hold the next part with its header; where its body stands in what the flow holds.

        :param cap: how long the message may be, to the end of this part.
        :raise ZmtpError: it is longer, or has no such part.
        """
        size = yield from self._begin(cap)
        start = len(self.flow.held)
        yield from self.flow.hold(size)
        return slice(start, start + size)

    def peek(self) -> Steps[int]:
        """How long the next part will be; 0 where there is none."""
        if not self.more:
            return 0
        if self._first is None:
            self._first = yield from self._next_header()
        return self._first.size

    def let_through(self) -> Steps[None]:
        """Let the next part out as it comes."""
        size = yield from self._begin(MAX_MESSAGE)
        self.flow.release()
        self.flow.can_insert = False
        yield from self.flow.let_through(size)
        self.flow.can_insert = not self.more

    def skip(self) -> Steps[None]:
        """Read the next part and forget it."""
        size = yield from self._begin(MAX_MESSAGE)
        self.flow.drop()
        yield from self.flow.skip(size)

    def _begin(self, cap: int) -> Steps[int]:
        if not self.more:
            raise ZmtpError(f"a message of {self._count} parts lacks parts that it must have")
        header = self._first or (yield from self._next_header())
        self._first = None
        self.more = header.more
        self._count += 1
        self._size += header.size
        # SECURITY: both before a byte of the part is read, whatever length its header claims.
        if self._count > MAX_PARTS:
            raise ZmtpError(f"a message has over {MAX_PARTS} parts")
        if self._size > cap:
            raise ZmtpError(f"a message has over {cap} bytes by its part {self._count}")
        return header.size

    def _next_header(self) -> Steps[Header]:
        while True:
            start = len(self.flow.held)
            header = yield from _read_header(self.flow)
            if not header.command:
                return header
            # libzmq's heartbeat does not wait for a message's end (zmtp_engine_t::produce_ping_message).
            yield from _read_command(self.flow, header, HEARTBEAT)
            self.flow.release(start)


#: Reads one message: lets it out, or drops it, or finds it wrong.
Reader = Callable[[Message], Steps[None]]


class Codec:
    """One direction of a connection that is passed on: bytes go in, what may pass comes out.

    :param reader: judges the messages.
    :param commands: that may come between them.
    """

    def __init__(self, reader: Reader, commands: frozenset[bytes] = HEARTBEAT) -> None:
        self._flow = Flow()
        self._steps = _pass_connection(self._flow, reader, commands)

    @property
    def held(self) -> int:
        """How many bytes it holds."""
        return len(self._flow.held)

    @property
    def can_insert(self) -> bool:
        """Whether a message of somebody else may follow what has passed."""
        return self._flow.can_insert

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """What passes after these bytes. Read it to its end before the next call and before the bytes change.

        :raise ZmtpError: the peer broke the protocol; it comes after all that passes, and nothing more does.
        """
        self._flow.put(data)
        try:
            next(self._steps)
        finally:
            yield from self._flow.take_output()


def frame(body: Buffer, *, more: bool = False, command: bool = False) -> bytes:
    """A frame as it goes over the wire."""
    flags = _MORE * more | _COMMAND * command
    if len(body) <= _SHORT_SIZE:
        return bytes([flags, len(body)]) + bytes(body)
    return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + bytes(body)


def ready(socket_type: bytes, identity: bytes) -> bytes:
    """The READY command of a peer, as a frame."""
    properties = {b"Socket-Type": socket_type, b"Identity": identity}
    data = b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in properties.items()
    )
    return frame(READY + data, command=True)


def read_opening(flow: Flow) -> Steps[None]:
    """Let greeting and handshake out.

    :raise ZmtpError: the peer does not speak ZMTP 3, or not in the clear, or refuses the connection.
    """
    for field, allowed in _GREETING:
        # One by one: the peers send it in pieces, each when it has seen enough of the other's.
        yield from flow.hold(1)
        # SECURITY: judged before it passes: by single bytes of it libzmq falls back to older protocols, and under
        # another mechanism nothing that follows could be read.
        if flow.held[0] not in allowed:
            raise ZmtpError(f"the greeting's {field} is not that of ZMTP 3 with the mechanism NULL")
        flow.release()
    header = yield from _read_header(flow)
    if not header.command:
        raise ZmtpError("a message came before READY")
    name = yield from _read_command(flow, header, frozenset({READY, ERROR}))
    flow.release()
    if name == ERROR:
        raise ZmtpError("it refused the connection")


def next_message(flow: Flow, commands: frozenset[bytes]) -> Steps[Message]:
    """The next message; commands before it are let out."""
    while True:
        header = yield from _read_header(flow)
        if not header.command:
            return Message(flow, header)
        yield from _read_command(flow, header, commands)
        flow.release()


def _pass_connection(flow: Flow, reader: Reader, commands: frozenset[bytes]) -> Steps[None]:
    yield from read_opening(flow)
    flow.can_insert = True
    while True:
        message = yield from next_message(flow, commands)
        yield from reader(message)
        assert not message.more


def _read_header(flow: Flow) -> Steps[Header]:
    start = len(flow.held)
    yield from flow.hold(2)
    flags = flow.held[start]
    # SECURITY: the reserved bits are zero, and a command is one frame; libzmq looks at neither.
    if flags > _MORE | _LONG | _COMMAND or (flags & _MORE and flags & _COMMAND):
        raise ZmtpError(f"a frame's flags are {flags:#04x}")
    if flags & _LONG:
        yield from flow.hold(7)
    size = int.from_bytes(flow.held[start + 1 :], "big")
    return Header(bool(flags & _MORE), bool(flags & _COMMAND), size)


def _read_command(flow: Flow, header: Header, allowed: frozenset[bytes]) -> Steps[bytes]:
    """Hold a command's body; its name."""
    if header.size > MAX_COMMAND:
        raise ZmtpError(f"a command of {header.size} bytes is over {MAX_COMMAND}")
    start = len(flow.held)
    yield from flow.hold(header.size)
    body = flow.held[start:]
    name = next((name for name in allowed if body.startswith(name)), None)
    # SECURITY: only what has its place here. A socket that is no publisher takes a SUBSCRIBE for a message.
    if name is None or len(body) - len(name) not in _COMMAND_DATA[name]:
        raise ZmtpError(f"a command that has no place here: {bytes(body[:12])!r}")
    return name
