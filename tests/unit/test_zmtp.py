"""One direction of a ZMTP connection: what passes, what is held, what is refused."""

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_client.session import Session

from hyper_kernel.channels import message, zmtp
from hyper_kernel.channels.message import Resigner, pass_small, pass_subscription
from hyper_kernel.channels.packet import DELIMITER
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import GREETING, SUBSCRIBER, Codec, ZmtpError, frame, ready

GUEST, CLIENT = Signer(b"the guest's"), Signer(b"the client's", "hmac-sha512")
OPENING = GREETING + ready(b"ROUTER", b"")
LONG_PING = frame(zmtp.PING + b"\0\0" + b"c" * 16, command=True)


def refuse():
    raise ZmtpError("forged")


def guests():
    """What a guest's connection goes through."""
    return Codec(Resigner(GUEST, CLIENT, refuse))


def lenient(forged):
    """What a client's connection goes through: forged messages are dropped."""
    return Codec(Resigner(CLIENT, GUEST, lambda: forged.append(True)))


def feed(codec, *pieces):
    """All that passes, and the error that ended it."""
    passed = bytearray()
    try:
        for piece in pieces:
            for chunk in codec.feed(piece):
                passed += chunk
    except ZmtpError as exc:
        return bytes(passed), str(exc)
    return bytes(passed), ""


def split(data, cuts):
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def wire(*parts):
    return b"".join(frame(part, more=number < len(parts)) for number, part in enumerate(parts, 1))


def signed(signer, *, identities=(), content=b"{}", buffers=()):
    parts = [b'{"msg_id":"1"}', b"{}", b"{}", content]
    return wire(*identities, DELIMITER, signer.sign(parts), *parts, *buffers)


# --- what passes ---


def test_a_message_is_signed_anew_and_nothing_else_changes():
    long = {"identities": [b"topic"], "content": b"x" * 70_000, "buffers": [b"", b"y" * 300]}
    sent = OPENING + signed(GUEST) + LONG_PING + signed(GUEST, **long)
    assert feed(guests(), sent) == (OPENING + signed(CLIENT) + LONG_PING + signed(CLIENT, **long), "")


def test_each_byte_of_a_greeting_passes_as_it_comes():
    codec = guests()
    for byte in GREETING:
        assert feed(codec, bytes([byte])) == (bytes([byte]), "")


def test_buffers_are_not_held():
    codec, buffer = guests(), frame(b"b" * 1_000_000)
    head = signed(GUEST, buffers=[b""])[:-2]
    assert feed(codec, OPENING + head + buffer[:500]) == (
        OPENING + signed(CLIENT, buffers=[b""])[:-2] + buffer[:500],
        "",
    )
    assert codec.held == 0
    assert feed(codec, buffer[500:]) == (buffer[500:], "")


def test_what_is_not_judged_yet_is_held():
    codec, sent = guests(), signed(GUEST)
    assert feed(codec, OPENING + sent[:-1]) == (OPENING, "")
    assert codec.held == len(sent) - 1
    assert feed(codec, sent[-1:]) == (signed(CLIENT), "")
    assert codec.held == 0


def test_a_heartbeat_inside_a_message_passes():
    sent, expected = bytearray(OPENING), bytearray(OPENING)
    parts = [b"{}"] * 4
    frames = [frame(part, more=True) for part in (b"topic", DELIMITER, GUEST.sign(parts), *parts)] + [frame(b"buffer")]
    for number, part in enumerate(frames):
        sent += LONG_PING * (number > 0) + part
    expected += LONG_PING * 6 + signed_frames(parts) + LONG_PING + frame(b"buffer")
    assert feed(guests(), bytes(sent)) == (bytes(expected), "")


def signed_frames(parts):
    return b"".join(frame(part, more=True) for part in (b"topic", DELIMITER, CLIENT.sign(parts), *parts))


def test_a_forged_message_of_a_client_is_dropped_whole_and_told_once():
    forged = []
    codec = lenient(forged)
    wrong = signed(GUEST, identities=[b"id"], buffers=[b"b" * 300, b"c"])
    sent = OPENING + wrong + signed(CLIENT) + wrong + LONG_PING + signed(CLIENT)
    assert feed(codec, sent) == (OPENING + signed(GUEST) + LONG_PING + signed(GUEST), "")
    assert forged == [True]


def test_a_replayed_message_has_its_old_signature():
    """So that the receiver's own history of signatures still knows it."""
    passed, _ = feed(guests(), OPENING + signed(GUEST) * 2)
    assert passed == OPENING + signed(CLIENT) * 2


def test_subscriptions_of_both_versions_pass():
    old = wire(b"\1topic") + wire(b"\1") + wire(b"\0topic")
    new = frame(zmtp.SUBSCRIBE + b"topic", command=True) + frame(zmtp.CANCEL, command=True)
    assert feed(Codec(pass_subscription, SUBSCRIBER), OPENING + old + new) == (OPENING + old + new, "")


def test_a_heartbeat_channel_passes_what_it_echoes():
    sent = OPENING + wire(b"", b"ping") + wire(b"x" * 1000)
    assert feed(Codec(pass_small), sent) == (sent, "")


def test_what_came_before_a_violation_passes():
    sent = OPENING + signed(GUEST) + b"\xff\xff"
    for pieces in ([sent], [bytes([byte]) for byte in sent]):
        assert feed(guests(), *pieces) == (OPENING + signed(CLIENT), "a frame's flags are 0xff")


def test_real_messages_of_session_pass():
    sender, receiver = Session(key=b"the guest's"), Session(key=b"the client's", signature_scheme="hmac-sha512")
    parts = sender.serialize(sender.msg("stream", {"text": "é" * 1000}), ident=[b"stream.stdout"])
    passed, _ = feed(guests(), OPENING + wire(*parts))
    _, got = receiver.feed_identities(unwire(passed[len(OPENING) :]))
    assert receiver.deserialize(got)["content"] == {"text": "é" * 1000}


def unwire(data):
    parts = []
    while data:
        size, start = (int.from_bytes(data[1:9], "big"), 9) if data[0] & 2 else (data[1], 2)
        parts.append(data[start : start + size])
        data = data[start + size :]
    return parts


# --- attacks ---


def greeting(at, what):
    return GREETING[:at] + what + GREETING[at + len(what) :]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (b"\x01\x00", "signature"),  # ZMTP 1.0, an identity
        (b"GET / HTTP/1.1\r\n", "signature"),
        (greeting(9, b"\x7e"), "signature"),
        (greeting(10, b"\0"), "version"),
        (greeting(10, b"\1"), "version"),  # ZMTP 2.0
        (greeting(12, b"CURVE"), "mechanism"),
        (greeting(12, b"PLAIN"), "mechanism"),
        (greeting(12, b"NULLX"), "mechanism"),
        (greeting(32, b"\2"), "as-server"),
        (greeting(63, b"\1"), "filler"),
    ],
)
def test_another_greeting_ends_at_its_first_wrong_byte(sent, field):
    passed, error = feed(guests(), sent)
    assert f"the greeting's {field} is not" in error
    assert GREETING.startswith(passed) and len(passed) < 64


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signed(GUEST), "a message came before READY"),
        (frame(zmtp.PING + b"\0\0", command=True), "has no place here"),
        (frame(zmtp.ERROR + b"\x03no.", command=True), "refused the connection"),
        (frame(b"\5READ", command=True), "has no place here"),
        (frame(b"", command=True), "has no place here"),
    ],
)
def test_a_connection_begins_with_ready(sent, reason):
    _, error = feed(guests(), GREETING + sent)
    assert reason in error


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x08\x00", "flags are 0x08"),
        (b"\x80\x00", "flags are 0x80"),
        (b"\x05\x05" + zmtp.PONG, "flags are 0x05"),  # a command with more to follow
        (frame(zmtp.READY, command=True), "has no place here"),
        (frame(zmtp.SUBSCRIBE, command=True), "has no place here"),
        (frame(zmtp.CANCEL + b"topic", command=True), "has no place here"),
        (frame(b"\4JOINtopic", command=True), "has no place here"),
        (frame(zmtp.PING, command=True), "has no place here"),
        (frame(zmtp.PING + b"\0\0" + b"c" * 17, command=True), "has no place here"),
        (frame(zmtp.PONG + b"c" * 17, command=True), "has no place here"),
        (b"\x06" + (1 << 62).to_bytes(8, "big"), "is over 65536"),
        (b"\x02" + (1 << 63).to_bytes(8, "big"), "over 65536 bytes by its part 1"),
        (wire(b"topic"), "of 1 parts lacks parts"),
        (wire(b"\1topic"), "of 1 parts lacks parts"),
        (wire(b"topic", DELIMITER), "of 2 parts lacks parts"),
        (wire(DELIMITER, b"", b"{}", b"{}", b"{}"), "of 5 parts lacks parts"),
        (wire(*[b"id"] * 17, DELIMITER), "over 16 parts before the delimiter"),
        (frame(b"x" * 65537, more=True), "over 65536 bytes by its part 1"),
        (frame(b"x" * 40_000, more=True) * 2, "over 65536 bytes by its part 2"),
        (wire(DELIMITER, b"0" * 65536, *[b"{}"] * 4), "over 65536 bytes by its part 2"),
        (signed(CLIENT), "forged"),
        (wire(DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"), "forged"),
        (wire(DELIMITER, GUEST.sign([b"{}"] * 4), b"{}", b"{}", b"{}", b"[]"), "forged"),
        # A signature covers the parts one after the other: Jupyter's, and so ours, does not see where one ends.
        (wire(DELIMITER, GUEST.sign([b"{}"] * 4), b"{}", b"{}", b"{}"), "of 5 parts lacks parts"),
        (frame(b"topic", more=True) + frame(zmtp.SUBSCRIBE, command=True), "has no place here"),
    ],
)
def test_a_guest_that_breaks_the_protocol_is_cut_off(sent, reason):
    passed, error = feed(guests(), OPENING + sent)
    assert passed == OPENING
    assert reason in error


def test_a_length_is_not_believed():
    claim = wire(DELIMITER, b"x")[:-3] + b"\1\1x" + b"\3" + (zmtp.MAX_MESSAGE + 1).to_bytes(8, "big")
    assert "bytes by its part 3" in feed(guests(), OPENING + claim)[1]
    codec = guests()
    tracemalloc.start()
    try:
        feed(codec, OPENING + claim[:-8] + (zmtp.MAX_MESSAGE - 100).to_bytes(8, "big") + b"{}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_message_is_bounded_over_all_its_parts(monkeypatch):
    monkeypatch.setattr(zmtp, "MAX_MESSAGE", 100_000)
    monkeypatch.setattr(message, "MAX_HEAD", 100_000)
    over = signed(GUEST, content=b"c" * 60_000, buffers=[b"b" * 50_000])
    assert "over 100000 bytes by its part 7" in feed(Codec(Resigner(GUEST, CLIENT, refuse)), OPENING + over)[1]
    dropped = []
    assert "over 100000 bytes by its part 7" in feed(lenient(dropped), OPENING + over)[1]
    assert dropped


def test_parts_are_bounded():
    buffers = [b""] * (zmtp.MAX_PARTS - 6)
    assert feed(guests(), OPENING + signed(GUEST, buffers=buffers))[1] == ""
    assert "over 4096 parts" in feed(guests(), OPENING + signed(GUEST, buffers=[*buffers, b""]))[1]


@pytest.mark.parametrize(
    "sent",
    [wire(b""), wire(b"\2topic"), wire(b"\1topic", b"more"), signed(CLIENT), wire(b"\1" + b"t" * 65536)],
)
def test_a_publisher_gets_subscriptions_only(sent):
    passed, error = feed(Codec(pass_subscription, SUBSCRIBER), OPENING + sent)
    assert passed == OPENING
    assert error


def test_a_heartbeat_is_small():
    assert "over 65536 bytes by its part 2" in feed(Codec(pass_small), OPENING + wire(b"", b"x" * 65537))[1]


# --- any bytes, however they are cut ---

PARTS = st.lists(st.binary(max_size=300), max_size=3)
MESSAGES = st.builds(
    lambda signer, identities, content, buffers: signed(
        signer, identities=identities, content=content, buffers=buffers
    ),
    st.sampled_from([GUEST, GUEST, CLIENT]),
    PARTS,
    st.binary(max_size=600),
    PARTS,
)
TRAFFIC = st.lists(st.one_of(MESSAGES, st.just(LONG_PING)), max_size=5).map(b"".join)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=30)


@given(traffic=TRAFFIC, junk=st.binary(max_size=20), cuts=CUTS)
@settings(deadline=None)
def test_the_way_a_stream_is_cut_changes_nothing(traffic, junk, cuts):
    sent = OPENING + traffic + junk
    for make in (guests, lambda: lenient([])):
        assert feed(make(), *split(sent, cuts)) == feed(make(), sent)


@given(junk=st.binary(max_size=3000), opened=st.booleans(), cuts=CUTS)
@settings(deadline=None)
def test_any_bytes_pass_or_break_the_protocol_and_no_more_is_held_than_came(junk, opened, cuts):
    for codec in (guests(), lenient([]), Codec(pass_small), Codec(pass_subscription, SUBSCRIBER)):
        passed, _ = feed(codec, *split(OPENING * opened + junk, cuts))
        assert len(passed) + codec.held <= len(OPENING) + len(junk) + 128  # a longer signature


@given(traffic=TRAFFIC, place=st.integers(0, 1 << 16), byte=st.integers(0, 255))
@settings(deadline=None)
def test_nothing_passes_that_the_guest_has_not_signed(traffic, place, byte):
    """One byte of a stream is changed; what passes of each message is whole and signed for the client."""
    sent = bytearray(OPENING + traffic)
    sent[place % len(sent)] = byte
    passed, _ = feed(guests(), bytes(sent))
    checked, error = feed(Codec(Resigner(CLIENT, GUEST, refuse)), passed)
    assert error == ""
    assert len(checked) <= len(sent)
