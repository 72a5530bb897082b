"""A peer that says anything about one connection, against the sums that bound what the host holds and sends."""

from hyper_kernel.vsock.connection import BUFFER, Connection, State
from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.packet import HEADER_SIZE, MAX_PAYLOAD, Address, Header, Op, Shut, parse, refusal

_HOST, _GUEST = Address(2, 7), Address(3, 40000)


def run(choices):
    if choices.byte() & 1:
        connection = Connection.dial(_HOST, _GUEST)
    else:
        connection = Connection.accept(_header(choices, Op.REQUEST, 0))
    received = consumed = sent = 0
    while choices.left:
        kind = choices.byte() % 8
        if kind < 4:
            header = _parsed(choices)
            if header is None:
                return
            was, shut = connection.state, connection.peer_shut
            try:
                wanted = connection.receive(header)
            except ViolationError:
                return
            if wanted:
                assert header.op == Op.RW and was is State.OPEN and not shut & Shut.SEND
                received += header.length
            assert was is not State.CLOSED or connection.state is State.CLOSED
        elif kind == 4 and received > consumed:
            count = min(received - consumed, choices.number(16))
            connection.consumed(count)
            consumed += count
        elif kind == 5 and (room := connection.room):
            piece = min(room, choices.number(16))
            if piece:
                header = connection.data(piece)
                assert header.length == piece and header.op == Op.RW
                sent += piece
        elif kind == 6:
            connection.shut_down(Shut(choices.below(4)))
        elif kind == 7:
            _take_control(connection)
        # What the peer may make the host hold is bounded, and so is what it may be sent.
        assert 0 <= received - consumed <= BUFFER
        assert 0 <= connection.room <= 0xFFFFFFFF
        assert connection.state is State.OPEN or not connection.room
        repr(connection)
    connection.reset()
    _take_control(connection)
    assert connection.state is State.CLOSED and not connection.has_control and connection.next_control() is None


def _take_control(connection):
    """All that is to be said: a few headers, each for the peer, and then silence."""
    for _ in range(5):
        header = connection.next_control()
        if header is None:
            assert not connection.has_control
            return
        assert (header.src_cid, header.src_port, header.dst_cid, header.dst_port) == (*_HOST, *_GUEST)
        assert header.length == 0 and header.buf_alloc == BUFFER and len(header.pack()) == HEADER_SIZE
    raise AssertionError("a connection has no end of control packets")


def _header(choices, op, length):
    return Header(
        3, 2, 40000, 7, length, 1, op, choices.below(4), choices.number(32), choices.number(32) * choices.below(2)
    )


def _parsed(choices):
    """What the parser takes of a packet that may lie about itself."""
    op, length = 1 + choices.below(7), choices.byte() * (1 + 511 * choices.below(2))
    if choices.rarely():
        op = choices.number(16)
    payload = bytes(length)
    if choices.rarely():
        length = choices.number(32)
    data = _header(choices, op, length).pack() + payload
    if choices.rarely():
        data = data[: choices.below(60)]
    try:
        header = parse(data)
    except ViolationError:
        return None
    assert HEADER_SIZE + header.length <= len(data) and header.length <= MAX_PAYLOAD
    answer = refusal(header)
    assert answer.op == Op.RST and answer.length == 0 and (answer.dst_cid, answer.dst_port) == header[0:3:2]
    return header
