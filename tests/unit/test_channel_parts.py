"""The parts that the channels' firewall stands on: JSON with bounds, cells, meters."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper_kernel.channels import cells as cells_module
from hyper_kernel.channels.cells import Cells
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.packet import MAX_VALUES, compose, read_header, read_json, write_json
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import ZmtpError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


# --- JSON ---


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_what_is_read_is_written_and_read_alike(value):
    assert read_json(write_json(read_json(json.dumps(value).encode()))) == value


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is not JSON"),
        (b"[]", "is no JSON object"),
        (b"null", "is no JSON object"),
        (b'{"a":NaN}', "is not JSON"),
        (b'{"a":-Infinity}', "is not JSON"),
        (b'{"a":"\xff"}', "is not JSON"),
        (b'{"a":' + b"[" * 100_000, "nested"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "nested"),
        (b'{"a":' * 300, "nested"),
        (b'{"a":[' + b"0," * (MAX_VALUES + 1) + b"0]}", "values"),
        (b'{"a":[' + b"[]," * (MAX_VALUES + 1) + b"0]}", "values"),
        (b'{"a":"' + b"\\" * (MAX_VALUES + 1), "is not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_json_that_costs_too_much_or_is_none_is_refused(data, problem):
    with pytest.raises(ZmtpError, match=problem):
        read_json(data)


def test_commas_in_a_text_do_not_count_as_values():
    text = '{[,"\\' * MAX_VALUES
    assert read_json(json.dumps({"text": text}).encode()) == {"text": text}


def test_brackets_in_a_text_do_not_count_as_depth():
    value = {"text": '[{"\\' * 1000, "list": [[1], [2]] * 1000}
    assert read_json(json.dumps(value).encode()) == value


def test_a_name_that_comes_twice_is_written_once():
    assert write_json(read_json(b'{"a":"good","a":"evil"}')) == b'{"a":"evil"}'


@pytest.mark.parametrize("data", [b'{"a\\uD800":"\\udc00"}', b'{"a\\ud800":["\\uDFFF"]}'])
def test_half_a_character_is_none(data):
    [(name, value)] = read_json(data).items()
    assert name == "a?" and value in ("?", ["?"])
    write_json(read_json(data)).decode()


def test_characters_that_are_written_in_two_halves_stay():
    assert read_json(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_header_keeps_short_texts_of_known_names():
    header = {"msg_id": "1", "msg_type": "status", "date": None, "session": {"deep": 1}, "username": "u" * 2000, "x": 1}
    assert read_header(json.dumps(header).encode()) == {"msg_id": "1", "msg_type": "status", "date": None}


def test_an_own_message_has_its_parent_and_is_signed():
    signer = Signer(b"key")
    wire = compose(signer, "stream", {"msg_id": "1"}, {"name": "stderr", "text": "x"}, topic="stream")
    assert b"stream" in wire[:10] and b'{"msg_id":"1"}' in wire and b'"version":"5.3"' in wire


# --- cells ---


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Asker:
    async def put(self, message):
        raise AssertionError("nobody is told here")


def ask(cells, *names, asker=None):
    for name in names:
        cells.ask({"msg_id": name}, asker or Asker())


def test_a_cell_begins_when_all_before_it_are_answered():
    clock = Clock()
    cells = Cells(clock=clock)
    assert cells.current is None
    ask(cells, "a", "b")
    assert (cells.current.msg_id, cells.current.began_s) == ("a", 100.0)
    clock.now_s = 105.0
    cells.end("a")
    assert (cells.current.msg_id, cells.current.began_s) == ("b", 105.0)
    assert cells.last_header == {"msg_id": "b"}
    cells.end("b")
    assert cells.current is None and cells.last_header == {"msg_id": "b"}


@pytest.mark.parametrize("unknown", ["c", "", None, 1, [], {}])
def test_an_answer_to_what_nobody_asked_ends_nothing(unknown):
    cells = Cells()
    ask(cells, "a")
    cells.end(unknown)
    assert cells.current.msg_id == "a"


def test_cells_of_a_client_that_left_end_with_it_unless_their_end_is_heard():
    cells, gone, other = Cells(), Asker(), Asker()
    ask(cells, "a", "b", asker=gone)
    ask(cells, "c", asker=other)
    cells.leave(gone, is_heard=True)
    assert [cell.msg_id for cell in cells.waiting] == ["a", "b", "c"]
    assert [cell.asker for cell in cells.waiting] == [None, None, other]
    cells.end("a")  # its idle status
    cells.leave(other, is_heard=False)
    assert [cell.msg_id for cell in cells.waiting] == ["b"]


def test_output_is_counted_anew_for_each_cell_and_told_once():
    cells = Cells(max_output=100)
    ask(cells, "a", "b")
    assert [cells.charge(shown) for shown in (60, 101, 200)] == [False, True, False]
    assert cells.over_output and cells.output_bytes == 200
    cells.end("a")
    assert not cells.over_output and cells.output_bytes == 0
    cells.charge(150)
    cells.charge(10)  # another connection, which is behind
    assert cells.over_output


def test_without_a_limit_nothing_is_over():
    cells = Cells()
    ask(cells, "a")
    assert cells.charge(1 << 60) is False and not cells.over_output


def test_cells_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(cells_module, "MAX_WAITING", 3)
    cells = Cells()
    ask(cells, "a", "b", "c", "d")
    assert [cell.msg_id for cell in cells.waiting] == ["b", "c", "d"] and cells.current.began_s


def test_changes_wake_those_who_wait():
    async def work():
        cells = Cells(max_output=10)
        seen = []

        async def watch():
            while True:
                await cells.wait_change()
                seen.append((cells.current and cells.current.msg_id, cells.over_output))

        task = asyncio.create_task(watch())
        for step in (
            lambda: ask(cells, "a"),
            lambda: ask(cells, "b"),  # waits: no change
            lambda: cells.charge(11),
            lambda: cells.end("a"),
            cells.clear,
        ):
            await asyncio.sleep(0)
            step()
        await asyncio.sleep(0)
        task.cancel()
        assert seen == [("a", False), ("a", True), ("b", False), (None, False)]

    asyncio.run(work())


# --- meters ---


def test_a_meter_counts_since_the_last_cell_began():
    cells = Cells()
    meter = Meter(cells)
    ask(cells, "a", "b")
    meter.add(10)
    meter.add(5)
    assert meter.shown == 15
    cells.end("a")
    meter.add(1)
    assert meter.shown == 1


def test_what_comes_too_fast_is_held_to_the_rate():
    clock = Clock()
    meter = Meter(Cells(), rate=1000, clock=clock)
    passed, start_s = 0, clock.now_s
    while passed < 20_000:
        passed += 500
        clock.now_s += meter.take(500)
    assert clock.now_s - start_s == pytest.approx(19, abs=1)


def test_a_burst_within_the_rate_does_not_wait():
    clock = Clock()
    meter = Meter(Cells(), rate=1000, clock=clock)
    assert meter.take(1000) == 0
    assert meter.take(500) == 0.5
    clock.now_s += 60
    assert meter.take(1000) == 0


def test_without_a_rate_nothing_waits():
    assert Meter(Cells()).take(1 << 60) == 0
