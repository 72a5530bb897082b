"""vsock packets: the codec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.packet import HEADER_SIZE, MAX_PAYLOAD, STREAM, Header, Op, parse, refusal

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
HEADERS = st.builds(Header, U64, U64, U32, U32, st.just(0), U16, st.sampled_from(Op), U32, U32, U32)


@given(HEADERS, st.binary(max_size=200), st.binary(max_size=20))
def test_what_is_packed_is_parsed(header, payload, slack):
    header = header._replace(length=len(payload))
    assert parse(header.pack() + payload + slack) == header


@given(st.binary(max_size=100))
def test_any_bytes_are_a_header_or_a_violation(data):
    try:
        header = parse(data)
    except ViolationError:
        return
    assert header.length <= len(data) - HEADER_SIZE
    assert header.op in set(Op)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 5}, "shorter than its payload of 5"),
        ({"length": MAX_PAYLOAD + 1}, "claims 65537 bytes"),
        ({"op": 0}, "unknown operation 0"),
        ({"op": 8}, "unknown operation 8"),
    ],
)
def test_nonsense_is_named(change, words):
    header = Header(3, 2, 10, 20, 0, STREAM, Op.RW, 0, 0, 0)._replace(**change)
    with pytest.raises(ViolationError, match=words):
        parse(header.pack() + b"four")


def test_a_header_needs_all_its_bytes():
    with pytest.raises(ViolationError, match="43 bytes, too few"):
        parse(bytes(43))


def test_a_refusal_goes_back_to_where_the_packet_came_from():
    header = Header(3, 9, 10, 20, 0, 7, Op.RW, 0, 0, 0)
    assert refusal(header) == Header(9, 3, 20, 10, 0, 7, Op.RST, 0, 0, 0)
