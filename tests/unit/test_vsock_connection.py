"""The state machine of one vsock connection: two of them, back to back, and a peer that breaks the rules."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.vsock.connection import BUFFER, Connection, State
from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.packet import STREAM, Address, Header, Op, Shut

HOST, GUEST = Address(2, 1000), Address(3, 50)


class Program:
    """One side: a machine, what its program still writes, what it holds and what it has read."""

    def __init__(self, to_write):
        self.machine = None
        self.to_write = deque(to_write)
        self.wire = deque()  # on the way to the other side
        self.written, self.held, self.read = b"", b"", b""
        self.max_underway = 0

    def write(self, limit):
        """One packet of data, as far as there is room; shut down after the last."""
        if self.machine.state is State.CONNECTING:
            return  # the program has no socket yet
        if not self.to_write:
            self.machine.shut_down(Shut.SEND)
            return
        count = min(limit, len(self.to_write[0]), self.machine.room)
        if not count:
            return
        piece = self.to_write[0][:count]
        self.to_write[0] = self.to_write[0][count:]
        if not self.to_write[0]:
            self.to_write.popleft()
        self.wire.append((self.machine.data(count), piece))
        self.written += piece

    def control(self):
        if (header := self.machine.next_control()) is not None:
            self.wire.append((header, b""))

    def take(self, other):
        """Receive one packet of the other side."""
        if not other.wire:
            return
        header, payload = other.wire.popleft()
        if self.machine is None:
            assert header.op == Op.REQUEST
            self.machine = Connection.accept(header)
        elif self.machine.receive(header):
            self.held += payload

    def consume(self, limit):
        piece, self.held = self.held[:limit], self.held[limit:]
        self.machine.consumed(len(piece))
        self.read += piece


STEPS = st.tuples(st.integers(0, 1), st.sampled_from(["write", "control", "take", "consume"]), st.integers(1, BUFFER))
CHUNKS = st.lists(st.integers(1, 3 * BUFFER), max_size=4)


def step(sides, who, what, limit):
    side, other = sides[who], sides[1 - who]
    if what == "take":
        side.take(other)
    elif side.machine is not None:
        {"write": lambda: side.write(limit), "control": side.control, "consume": lambda: side.consume(limit)}[what]()
    for one, two in ((side, other), (other, side)):
        underway = len(one.written) - len(two.read)
        assert underway <= BUFFER
        assert len(two.held) <= BUFFER


def make_sides(chunks):
    data = [[bytes([number % 251]) * size for number, size in enumerate(sizes)] for sizes in chunks]
    sides = [Program(pieces) for pieces in data]
    sides[0].machine = Connection.dial(HOST, GUEST)
    return sides, [b"".join(pieces) for pieces in data]


@settings(max_examples=60, deadline=None)
@given(st.tuples(CHUNKS, CHUNKS), st.lists(STEPS, max_size=80))
def test_all_bytes_arrive_in_order_however_packets_are_delayed(chunks, steps):
    sides, data = make_sides(chunks)
    for arguments in steps:
        step(sides, *arguments)
    for _ in range(200):  # whatever the order was so far, fairness finishes it
        for who in (0, 1):
            for what in ("control", "write", "take", "consume"):
                step(sides, who, what, BUFFER)
    assert [sides[1].read, sides[0].read] == data
    for side in sides:
        assert (side.machine.state, side.machine.shut, side.machine.peer_shut) == (State.OPEN, Shut.SEND, Shut.SEND)
        assert side.machine.held == 0
        assert not side.machine.has_control
    sides[0].machine.shut_down(Shut.BOTH)
    for who in (0, 1, 1, 0):
        step(sides, who, "control", 1)
        step(sides, 1 - who, "take", 1)
    assert [side.machine.state for side in sides] == [State.CLOSED, State.CLOSED]


ACTIONS = st.one_of(
    st.tuples(st.just("shut"), st.sampled_from([Shut.RECEIVE, Shut.SEND, Shut.BOTH])),
    st.tuples(st.just("reset"), st.none()),
)


@settings(max_examples=100, deadline=None)
@given(st.tuples(CHUNKS, CHUNKS), st.lists(st.tuples(STEPS, st.none() | ACTIONS), max_size=60))
def test_whoever_stops_when_both_sides_agree_in_the_end(chunks, steps):
    sides, _ = make_sides(chunks)
    for arguments, action in steps:
        machine = sides[arguments[0]].machine
        if action and machine:
            machine.reset() if action[0] == "reset" else machine.shut_down(action[1])
        step(sides, *arguments)
    for side in sides:
        if side.machine:
            side.machine.shut_down(Shut.BOTH)
    for _ in range(8):
        for who in (0, 1):
            for what in ("control", "take"):
                while sides[1 - who].wire or what == "control":
                    step(sides, who, what, 1)
                    if what == "control":
                        break
    assert {side.machine.state for side in sides if side.machine} == {State.CLOSED}
    assert not any(side.machine.has_control for side in sides if side.machine)


def guest_header(op, **fields):
    return Header(GUEST.cid, HOST.cid, GUEST.port, HOST.port, 0, STREAM, op, 0, BUFFER, 0)._replace(**fields)


def opened():
    machine = Connection.accept(guest_header(Op.REQUEST))
    assert machine.next_control().op == Op.RESPONSE
    return machine


def test_more_than_the_credit_is_a_violation():
    machine = opened()
    for _ in range(BUFFER // 65536):
        assert machine.receive(guest_header(Op.RW, length=65536))
    with pytest.raises(ViolationError, match="1 bytes to port 1000 with credit for 0"):
        machine.receive(guest_header(Op.RW, length=1))


def test_acknowledging_what_was_not_sent_is_a_violation():
    machine = opened()
    machine.data(10)
    machine.receive(guest_header(Op.CREDIT_UPDATE, fwd_cnt=10))
    with pytest.raises(ViolationError, match="acknowledged more"):
        machine.receive(guest_header(Op.CREDIT_UPDATE, fwd_cnt=11))


def test_an_older_count_changes_nothing():
    machine = opened()
    machine.data(10)
    machine.receive(guest_header(Op.CREDIT_UPDATE, fwd_cnt=10))
    machine.receive(guest_header(Op.CREDIT_UPDATE, fwd_cnt=4))
    assert machine.room == BUFFER


def test_counts_go_on_past_four_gigabytes():
    machine = opened()
    total = 0
    for _ in range((1 << 32) // 65536 + 5):
        machine.data(65536)
        total += 65536
        assert machine.receive(guest_header(Op.RW, length=65536, fwd_cnt=total & 0xFFFFFFFF))
        machine.consumed(65536)
    assert machine.room == BUFFER
    assert machine.next_control().fwd_cnt == total & 0xFFFFFFFF


def test_credit_is_asked_for_once_it_is_used_up():
    machine = opened()
    machine.data(BUFFER)
    assert machine.room == 0
    assert machine.next_control().op == Op.CREDIT_REQUEST
    assert not machine.has_control
    assert "room=0" in repr(machine)


def test_a_shrunken_buffer_stops_the_sender():
    machine = opened()
    machine.data(1000)
    machine.receive(guest_header(Op.CREDIT_UPDATE, buf_alloc=100))
    assert machine.room == 0


def test_freed_bytes_are_announced_in_time():
    machine = opened()
    machine.receive(guest_header(Op.RW, length=65536))
    machine.consumed(65535)
    assert not machine.has_control
    machine.consumed(1)
    assert machine.next_control()[6:] == (Op.CREDIT_UPDATE, 0, BUFFER, 65536)


def test_a_refused_dial_is_closed_and_says_nothing():
    machine = Connection.dial(HOST, GUEST)
    assert machine.next_control().op == Op.REQUEST
    machine.receive(guest_header(Op.RST, buf_alloc=0))
    assert machine.state is State.CLOSED
    assert not machine.has_control


def test_a_dial_given_up_before_it_was_sent_says_nothing():
    machine = Connection.dial(HOST, GUEST)
    machine.reset()
    assert machine.next_control() is None


@pytest.mark.parametrize("op", [Op.RW, Op.SHUTDOWN, Op.CREDIT_UPDATE, Op.REQUEST])
def test_a_dial_is_answered_by_nothing_else(op):
    machine = Connection.dial(HOST, GUEST)
    machine.next_control()
    machine.receive(guest_header(op))
    assert machine.state is State.CLOSED
    assert machine.next_control().op == Op.RST


@pytest.mark.parametrize("op", [Op.REQUEST, Op.RESPONSE])
def test_an_open_connection_cannot_be_opened_again(op):
    machine = opened()
    machine.receive(guest_header(op))
    assert machine.next_control().op == Op.RST


def test_data_after_the_last_data_resets():
    machine = opened()
    machine.receive(guest_header(Op.SHUTDOWN, flags=Shut.SEND))
    assert not machine.receive(guest_header(Op.RW, length=1))
    assert machine.state is State.CLOSED


def test_data_that_nobody_reads_is_dropped_and_counted():
    machine = opened()
    machine.shut_down(Shut.RECEIVE)
    assert machine.next_control().flags == Shut.RECEIVE
    for _ in range(8):
        assert not machine.receive(guest_header(Op.RW, length=65536))
    assert machine.held == 0
