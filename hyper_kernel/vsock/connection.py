"""One vsock connection as one side sees it: states and byte counts, no bytes and no I/O.

Credit (virtio 1.2, 5.10.6.3): each side says in every packet how large its buffer is (``buf_alloc``) and how many
bytes it has handed on in total (``fwd_cnt``); the other side never has more than ``buf_alloc`` bytes underway.
"""

from enum import Enum

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.packet import STREAM, Address, Header, Op, Shut

#: Bytes that this side holds for a connection at most; the guest is told so.
BUFFER = 256 * 1024
#: Freed bytes that are worth a packet of their own. Less than BUFFER, so that a sender never waits in vain.
UPDATE_AT = BUFFER // 4

_MASK = 0xFFFFFFFF


class State(Enum):
    """How far a connection is."""

    #: REQUEST is to be sent, or underway and not answered.
    CONNECTING = "connecting"
    #: Both sides agreed; either may have shut down a direction.
    OPEN = "open"
    #: Over. At most an RST is still to be sent.
    CLOSED = "closed"


class Connection:
    """States and counts of one connection.

    The caller feeds it every header that came (``receive``), tells it what it did with payloads (``consumed``) and
    sends what ``next_control`` and ``data`` give, in that order.

    :ivar state: see ``State``.
    :ivar shut: what this side has shut down.
    :ivar peer_shut: what the peer has shut down.
    """

    def __init__(self, local: Address, peer: Address, *, state: State, greeting: Op) -> None:
        self.local = local
        self.peer = peer
        self.state = state
        self.shut = Shut.NONE
        self.peer_shut = Shut.NONE
        self._greeting: Op | None = greeting
        self._received = 0  # bytes that came, in total
        self._forwarded = 0  # of these, handed on
        self._told = 0  # of these, the peer knows of
        self._sent = 0
        self._peer_forwarded = 0
        self._peer_buffer = 0
        self._update_due = self._ask_due = self._shut_due = self._reset_due = False

    @classmethod
    def dial(cls, local: Address, peer: Address) -> "Connection":
        """A connection that this side asks for."""
        return cls(local, peer, state=State.CONNECTING, greeting=Op.REQUEST)

    @classmethod
    def accept(cls, request: Header) -> "Connection":
        """A connection that the peer asked for and this side grants."""
        local = Address(request.dst_cid, request.dst_port)
        peer = Address(request.src_cid, request.src_port)
        made = cls(local, peer, state=State.OPEN, greeting=Op.RESPONSE)
        made._peer_buffer = request.buf_alloc
        return made

    def __repr__(self) -> str:
        return (
            f"<Connection {self.local.port}<->{self.peer.port} {self.state.value} sent={self._sent} "
            f"received={self._received} held={self.held} room={self.room}>"
        )

    @property
    def held(self) -> int:
        """Bytes that came and were not handed on yet."""
        return self._received - self._forwarded

    @property
    def room(self) -> int:
        """Bytes that ``data`` may send now."""
        if self.state is not State.OPEN or self._greeting is not None:
            return 0
        if self.shut & Shut.SEND or self.peer_shut & Shut.RECEIVE:
            return 0
        return max(0, self._peer_buffer - (self._sent - self._peer_forwarded))

    @property
    def has_control(self) -> bool:
        """Whether ``next_control`` has something to send."""
        if self.state is State.CLOSED:
            return self._reset_due
        return self._greeting is not None or self._shut_due or self._update_due or self._ask_due

    def receive(self, header: Header) -> bool:
        """Take a header that the peer sent on this connection.

        :return: whether its payload is to be handed on (and ``consumed`` called later).
        :raise ViolationError: the peer sent more than its credit, or acknowledged what was never sent.
        """
        op = header.op
        if op == Op.RST:
            # An RST from no socket carries no credit fields (virtio_transport_reset_no_sock).
            self.state, self._reset_due = State.CLOSED, False
            return False
        if self.state is State.CLOSED:
            return False
        if (self.state is State.CONNECTING) != (op == Op.RESPONSE) or op == Op.REQUEST or self._greeting == Op.REQUEST:
            self.reset()
            return False
        self._note_credit(header)
        if op == Op.RW:
            return self._receive_data(header.length)
        if op == Op.RESPONSE:
            self.state = State.OPEN
        elif op == Op.CREDIT_REQUEST:
            self._update_due = True
        elif op == Op.SHUTDOWN:
            self._receive_shutdown(header.flags)
        return False

    def consumed(self, count: int) -> None:
        """Say that ``count`` received bytes were handed on (or dropped), which frees the peer's credit."""
        assert 0 <= count <= self.held
        self._forwarded += count
        if self._forwarded - self._told >= UPDATE_AT and not self.peer_shut & Shut.SEND:
            self._update_due = True

    def data(self, count: int) -> Header:
        """The header for ``count`` bytes that are sent now; at most ``room``."""
        assert 0 < count <= self.room
        self._sent += count
        header = self._header(Op.RW, length=count)
        if not self.room:
            self._ask_due = True
        return header

    def shut_down(self, how: Shut) -> None:
        """Say that this side will not send, not receive, or neither any more. Before that all data must be sent."""
        if self.state is State.CONNECTING:
            self.reset()
        elif self.state is State.OPEN and how & ~self.shut:
            self.shut |= how
            self._shut_due = True

    def reset(self) -> None:
        """End the connection at once; the peer learns it if it knows of the connection."""
        if self.state is State.CLOSED:
            return
        self._reset_due = self._greeting != Op.REQUEST
        self.state = State.CLOSED

    def next_control(self) -> Header | None:
        """The next packet without payload to send, or None."""
        if self.state is State.CLOSED:
            due, self._reset_due = self._reset_due, False
            return self._header(Op.RST) if due else None
        if self._greeting is not None:
            op, self._greeting = self._greeting, None
            return self._header(op)
        if self._shut_due:
            self._shut_due = False
            return self._header(Op.SHUTDOWN, flags=self.shut)
        if self._update_due:
            return self._header(Op.CREDIT_UPDATE)
        if self._ask_due:
            self._ask_due = False
            return self._header(Op.CREDIT_REQUEST)
        return None

    def _receive_data(self, count: int) -> bool:
        # SECURITY: held bytes are bounded by what this side announced, whatever the guest sends.
        if self.held + count > BUFFER:
            raise ViolationError(
                f"the guest sent {count} bytes to port {self.local.port} with credit for {BUFFER - self.held}"
            )
        if self.peer_shut & Shut.SEND:
            self.reset()
            return False
        self._received += count
        if self.shut & Shut.RECEIVE:
            self.consumed(count)
            return False
        return count > 0

    def _receive_shutdown(self, flags: int) -> None:
        self.peer_shut |= Shut(flags & Shut.BOTH)
        if self.peer_shut == Shut.BOTH:
            # The peer closed and waits for this RST (virtio_transport_close of Linux).
            self.reset()

    def _note_credit(self, header: Header) -> None:
        self._peer_buffer = header.buf_alloc
        news = (header.fwd_cnt - self._peer_forwarded) & _MASK
        if news > _MASK >> 1:
            return  # an older count than the last one
        if news > self._sent - self._peer_forwarded:
            raise ViolationError(f"the guest acknowledged more bytes on port {self.local.port} than it was sent")
        self._peer_forwarded += news
        if news:
            self._ask_due = False

    def _header(self, op: Op, *, length: int = 0, flags: int = 0) -> Header:
        self._told, self._update_due = self._forwarded, False
        return Header(
            self.local.cid,
            self.peer.cid,
            self.local.port,
            self.peer.port,
            length,
            STREAM,
            op,
            flags,
            BUFFER,
            self._forwarded & _MASK,
        )
