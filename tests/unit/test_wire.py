"""The host/guest contract's codec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyper_kernel import wire
from hyper_kernel.wire import Decoder, Type, WireError, pack, parse

FRAMES = st.lists(st.tuples(st.sampled_from(Type), st.binary(max_size=300)), max_size=8)


@given(FRAMES, st.data())
def test_any_cut_of_a_stream_gives_its_frames(frames, data):
    stream = b"".join(pack(kind, payload) for kind, payload in frames)
    decoder, found = Decoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == frames


@given(FRAMES.filter(bool))
def test_reading_what_is_missing_never_passes_the_frame(frames):
    stream = b"".join(pack(kind, payload) for kind, payload in frames)
    decoder, found = Decoder(), []
    while not found:
        size = decoder.missing
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == frames[:1]
    assert stream == b"".join(pack(kind, payload) for kind, payload in frames[1:])


@given(st.binary(max_size=2000))
def test_garbage_gives_frames_or_a_wire_error_and_is_never_hoarded(data):
    decoder = Decoder()
    try:
        for _ in decoder.feed(data):
            pass
    except WireError:
        return
    assert decoder.missing <= wire.MAX_PAYLOAD + 5


def test_an_oversized_length_is_refused_before_its_payload_comes():
    with pytest.raises(WireError, match="over the limit"):
        list(Decoder().feed((wire.MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes([Type.STDOUT])))


def test_an_unknown_type_is_refused():
    with pytest.raises(WireError, match="type 99"):
        list(Decoder().feed(b"\0\0\0\0\x63"))


def test_packing_an_oversized_payload_is_refused():
    with pytest.raises(WireError, match="over the limit"):
        pack(Type.STDIN, b"x" * (wire.MAX_PAYLOAD + 1))


@pytest.mark.parametrize("payload", [b"[]", b"1", b"{", b"\xff", b"[" * 5000])
def test_a_payload_that_is_no_object_is_refused(payload):
    with pytest.raises(WireError):
        parse(Type.REQUEST, payload)


def test_numbers_are_those_of_version_6():
    assert wire.VERSION == 6
    assert [int(kind) for kind in Type] == [1, 2, 3, 4, 5, 16, 17, 18, 32, 33, 34, 35, 36, 37, 38]


@pytest.mark.parametrize("hello", [{}, {"version": 1}, {"version": "2"}])
def test_another_version_is_refused(hello):
    with pytest.raises(WireError, match="version"):
        wire.check_version(hello)
