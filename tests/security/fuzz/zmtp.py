"""The channels' codec, in either direction: what passes is a valid stream, signed with the receiver's key alone."""

from hyper_kernel.channels.message import Resigner, pass_small, pass_subscription
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import HEARTBEAT, SUBSCRIBER, Codec, ZmtpError
from tests.security.fuzz.zmtp_stream import DELIMITER, frame, make_head, make_stream, message, read_stream, sign

_GUEST, _CLIENTS = b"the key of the guest", b"the key of the clients"


def run(choices):
    kind = choices.byte() % 6
    if kind < 4:
        _run_signed(choices, outward=kind < 2)
    elif kind == 4:
        stream = make_stream(choices, _make_subscription)
        messages, *_ = _pass(choices, stream, lambda: Codec(pass_subscription, SUBSCRIBER))
        assert all(len(parts) == 1 and parts[0][:1] in (b"\0", b"\1") for parts in messages)
    else:
        _pass(choices, make_stream(choices, _make_small), lambda: Codec(pass_small, HEARTBEAT))


def _run_signed(choices, *, outward):
    theirs, ours = (_GUEST, _CLIENTS) if outward else (_CLIENTS, _GUEST)
    sent, secrets, forged = [], [], []

    def make_signed(choices):
        head = make_head(choices)
        signature = sign(theirs, head)
        secrets.append(signature)
        lie = choices.byte()
        if lie < 16:
            signature = sign(ours, head)  # one that it saw, or whose key it has: no use to it
        elif lie < 32:
            signature = choices.bend(signature)
        elif lie < 40:
            signature = b""
        if signature == sign(theirs, head):
            sent.append(b"".join(head))
        identities = [choices.bytes(choices.byte() % 6) for _ in range(choices.pick((0, 1, 1, 2, 3, 17)))]
        buffers = [choices.bytes(choices.byte() % 40) for _ in range(choices.pick((0, 0, 0, 1, 3)))]
        parts = [*identities, DELIMITER, signature, *head, *buffers]
        del parts[choices.pick((99, 99, 99, 99, 99, 99, 1, 4, 5)) :]
        data = message(*parts)
        if choices.rarely(8):
            # A ping in the middle of a message, as libzmq sends them.
            data = b"".join(
                frame(part, more=at < len(parts) - 1) + frame(b"\4PING\0\1c", command=True) * (at == choices.below(4))
                for at, part in enumerate(parts)
            )
        return choices.bend(data)

    def refuse():
        forged.append(True)
        if outward:
            raise ZmtpError("forged")

    def make_codec():
        return Codec(Resigner(Signer(theirs), Signer(ours), refuse))

    stream = make_stream(choices, make_signed)
    messages, unfinished, rest = _pass(choices, stream, make_codec)
    for parts in (*messages, unfinished):
        _check_signed(parts, ours, sent)
    passed = b"".join(part for parts in (*messages, unfinished, [rest]) for part in parts)
    # No signature of the sender's passes, unless it moved to where a sender may put what it likes.
    assert choices.has_bent or not any(secret in passed for secret in secrets)


def _check_signed(parts, key, sent):
    if DELIMITER not in parts:
        assert not parts, "part of a message passed before it was judged"
        return
    at = parts.index(DELIMITER)
    assert at <= 16
    head = parts[at + 2 : at + 6]
    assert len(head) == 4 and parts[at + 1] == sign(key, head)
    assert b"".join(head) in sent  # the signature is of the parts joined, as Jupyter has it


def _make_subscription(choices):
    return choices.bend(message(choices.pick((b"\1", b"\0", b"\1topic", b"", b"\2", b"\1" + bytes(300)))))


def _make_small(choices):
    return choices.bend(message(*(choices.bytes(choices.byte() % 9) for _ in range(choices.pick((1, 1, 1, 2, 3))))))


def _pass(choices, stream, make_codec):
    """What passes, whatever the pieces are that it comes in."""
    pieces = choices.cut(stream)
    whole, whole_failed = _feed(make_codec(), [stream])
    passed, failed = _feed(make_codec(), pieces)
    assert (passed, failed) == (whole, whole_failed)
    return read_stream(passed)


def _feed(codec, pieces):
    passed, fed = bytearray(), 0
    try:
        for piece in pieces:
            fed += len(piece)
            for chunk in codec.feed(piece):
                passed += chunk
            assert codec.held <= fed
    except ZmtpError as exc:
        assert 0 < len(str(exc)) < 300
        return bytes(passed), True
    return bytes(passed), False
