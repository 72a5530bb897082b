"""What a peer of a ZeroMQ connection may send, mostly good; and a reading of RFC 37 that is not the product's."""

import hashlib
import hmac
import json

GREETING = b"\xff".ljust(9, b"\0") + b"\x7f\3\1NULL".ljust(55, b"\0")
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00"
READY = READY[:1] + bytes([len(READY) - 2]) + READY[2:]
_COMMANDS = (
    b"\4PING\0\1ctx", b"\4PONG", b"\4PONGctx", b"\x09SUBSCRIBE", b"\x09SUBSCRIBEtopic", b"\6CANCELtopic",
    b"\4PING", b"\4PING\0\1" + bytes(20), b"\5READY", b"\5ERROR\3why", b"\3FOO", b"", b"\4PIN",
)  # fmt: skip
DELIMITER = b"<IDS|MSG>"


def frame(body, *, more=False, command=False, long=False):
    flags = 1 * more | 4 * command
    if len(body) < 256 and not long:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


def message(*parts):
    return b"".join(frame(part, more=True) for part in parts[:-1]) + frame(parts[-1])


def sign(key, parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()


def make_stream(choices, make_message):
    """Greeting, handshake, and then what comes."""
    greeting, ready = GREETING, READY
    if choices.rarely():
        greeting = choices.bend(greeting)
    if choices.rarely():
        ready = choices.pick((b"", frame(b"\5ERROR\3why", command=True), choices.bend(ready)))
    stream = bytearray(greeting + ready)
    while choices.left and len(stream) < 8192:
        kind = choices.byte() % 16
        if kind < 11:
            stream += make_message(choices)
        elif kind < 14:
            stream += frame(choices.pick(_COMMANDS), command=True, long=choices.rarely())
        elif kind == 14:
            flags = choices.byte()
            stream += bytes([flags]) + choices.number(64).to_bytes(8, "big") + choices.bytes(8)
        else:
            stream = bytearray(choices.bend(bytes(stream)))
    return bytes(stream)


def make_head(choices):
    """Header, parent header, metadata and content, as JSON or as what comes."""
    kind = choices.pick(("stream", "status", "execute_reply", "display_data", "input_request", "comm_msg", "x"))
    header = {"msg_id": "m", "msg_type": kind, "session": "s", "username": "u", "date": "", "version": "5.3"}
    content = choices.pick(
        ({}, {"name": "stdout", "text": "x" * choices.byte()}, {"execution_state": "busy"}, {"code": "1"})
    )
    parts = [json.dumps(part).encode() for part in (header, {"msg_id": "p"} if choices.byte() & 1 else {}, {}, content)]
    if choices.rarely(8):
        at = choices.below(4)
        parts[at] = choices.bytes(choices.byte() % 40)
    return parts


def read_stream(data):
    """A stream that passed: its whole messages (each a list of parts) and commands; it may break off anywhere.

    :raise AssertionError: it is not what RFC 37 allows.
    """
    greeting, data = data[:64], memoryview(data)[64:]
    assert all(
        byte == wanted or at in range(1, 9) or at == 11 or (at == 32 and byte < 2)
        for at, (byte, wanted) in enumerate(zip(greeting, GREETING, strict=False))
    )
    messages, parts, is_ready = [], [], False
    while len(data) >= 2:
        flags = data[0]
        assert flags < 7 and flags & 5 != 5
        head = 9 if flags & 2 else 2
        if len(data) < head:
            break
        size = int.from_bytes(data[1:head], "big")
        if len(data) < head + size:
            break
        body, data = bytes(data[head : head + size]), data[head + size :]
        if flags & 4:
            assert (body[:6] in (b"\5READY", b"\5ERROR")) != is_ready
            assert is_ready or body.startswith((b"\5READY", b"\5ERROR"))
            is_ready = True
            continue
        assert is_ready
        parts.append(body)
        if not flags & 1:
            messages.append(parts)
            parts = []
    return messages, parts, bytes(data)
