"""The frames of ``wire``, cut anywhere: what comes out is what a plain reading of the contract gives."""

import json
import struct

from hyper_kernel import wire
from hyper_kernel.wire import MAX_PAYLOAD, Decoder, Type, WireError

_KINDS = tuple(Type)
_HEADER = struct.Struct(">IB")


def run(choices):
    stream = make_stream(choices)
    decoder, found, failed, fed = Decoder(), [], False, 0
    try:
        for piece in choices.cut(stream):
            fed += len(piece)
            for kind, payload in decoder.feed(bytes(piece)):
                found.append((kind, payload))
                _read_json(kind, payload)
            assert len(decoder._buffer) <= MAX_PAYLOAD + _HEADER.size
            assert 0 < decoder.missing <= MAX_PAYLOAD + _HEADER.size
    except WireError:
        failed = True
    expected, is_broken = _read(stream[:fed])
    assert found == expected and failed == is_broken
    for kind, payload in found:
        assert wire.pack(kind, payload) == _HEADER.pack(len(payload), kind) + payload


def make_stream(choices, kinds=_KINDS):
    """Frames, mostly good ones."""
    stream = b""
    while choices.left and len(stream) < 4096:
        kind = int(choices.pick(kinds)) if not choices.rarely() else choices.byte()
        payload = choices.bytes(choices.byte() % 32) if choices.byte() & 1 else make_json(choices)
        length = len(payload) if not choices.rarely() else choices.number(32)
        stream += _HEADER.pack(length, kind) + payload
        if choices.rarely(64):
            stream += _HEADER.pack(MAX_PAYLOAD - choices.byte() % 2 + choices.byte() % 2, kind) + bytes(MAX_PAYLOAD)
    return choices.bend(stream)


def make_json(choices):
    """An object as a peer would send it, or nearly."""
    keys = (
        "id",
        "op",
        "args",
        "result",
        "error",
        "event",
        "version",
        "code",
        "signal",
        "count",
        "ports",
        "kernel.exit",
    )
    values = (
        1,
        2,
        0,
        -1,
        "",
        "kernel.exit",
        {},
        [],
        None,
        True,
        1.5,
        1 << 70,
        {"a": [1]},
        "x" * 300,
        wire.VERSION,
        300,
    )
    data = {choices.pick(keys): choices.pick(values) for _ in range(choices.byte() % 4)}
    if choices.rarely():
        depth = choices.below(1200)
        return choices.pick((b"[", b'{"error":', b'{"id":')) * depth
    if choices.rarely():
        depth = choices.below(990)
        return f'{{"id": 1, "{choices.pick(keys)}": {"[" * depth}{"]" * depth}}}'.encode()
    return choices.bend(json.dumps(data).encode())


def _read_json(kind, payload):
    try:
        assert isinstance(wire.parse(kind, payload), dict)
    except WireError:
        return


def _read(stream):
    """Whole frames of a stream, and whether it breaks the contract after them."""
    found = []
    while len(stream) >= 5:
        length, kind = _HEADER.unpack_from(stream)
        if length > MAX_PAYLOAD or kind not in _KINDS:
            return found, True
        if len(stream) < 5 + length:
            break
        found.append((Type(kind), stream[5 : 5 + length]))
        stream = stream[5 + length :]
    return found, False
