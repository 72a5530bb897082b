"""The JSON of a message: read with bounds, written anew, and messages of the shim's own."""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from hyper_kernel.channels.signing import Buffer, Signer
from hyper_kernel.channels.zmtp import ZmtpError, frame

DELIMITER = b"<IDS|MSG>"
#: The version of Jupyter's messages: nothing newer is used here.
PROTOCOL = "5.3"
#: Values in one message; each takes up to a hundred bytes once it is read.
MAX_VALUES = 1_000_000
#: How deep they may be nested.
MAX_DEPTH = 200
#: The longest text of a header; ids and dates are far shorter.
_MAX_FIELD = 1024
_FIELDS = ("msg_id", "msg_type", "username", "session", "date", "version", "subshell_id")
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SURROGATE = rb"\ud"
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SESSION = os.urandom(16).hex()


def read_json(data: Buffer) -> dict[str, Any]:
    """The object in a part of a message.

    :raise ZmtpError: it is none, or more than can be read at a reasonable cost.
    """
    data = bytes(data)
    # SECURITY: "[],[],[],..." takes 20 times its length once it is read, and "[[[[..." exhausts a reader's stack.
    if _count_values(data) > MAX_VALUES or _count_opening(data) > MAX_DEPTH:
        _check_shape(_TEXTS.sub(b"", data))  # what is in texts does not count
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
        if _SURROGATE in data.lower():  # of a pair, or alone: then it is no character, and no UTF-8 holds it
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as exc:
        raise ZmtpError("a part of a message is not JSON") from exc
    if not isinstance(value, dict):
        raise ZmtpError("a part of a message is no JSON object")
    return value


def write_json(value: dict[str, Any]) -> bytes:
    """A part of a message.

    SECURITY: always in ASCII and without a name twice in an object, so that every reader reads what was judged here.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise ZmtpError("a part of a message cannot be written as JSON") from exc


def read_header(data: Buffer) -> dict[str, Any]:
    """A header with the fields that Jupyter knows, all short texts or null; empty where a message has none.

    :raise ZmtpError: it is no JSON object.
    """
    fields = read_json(data)
    return {name: fields[name] for name in _FIELDS if name in fields and _is_short(fields[name])}


def new_header(msg_type: str) -> dict[str, Any]:
    """The header of a message that the shim itself sends."""
    return {
        "msg_id": os.urandom(16).hex(),
        "msg_type": msg_type,
        "username": "hyper",
        "session": _SESSION,
        "date": datetime.now(UTC).isoformat(),
        "version": PROTOCOL,
    }


def pack(parts: Sequence[Buffer], signer: Signer, *, prefix: Sequence[bytes] = (), more: bool = False) -> bytes:
    """A message up to its content, as it goes over the wire.

    :param parts: header, parent header, metadata, content.
    :param prefix: what comes before the delimiter.
    :param more: whether buffers follow.
    """
    head = [*prefix, DELIMITER, signer.sign(parts), *parts[:-1]]
    return b"".join(frame(part, more=True) for part in head) + frame(parts[-1], more=more)


def compose(
    signer: Signer, msg_type: str, parent: dict[str, Any], content: dict[str, Any], *, topic: str = ""
) -> bytes:
    """A message of the shim's own.

    :param parent: the header of the request that it belongs to.
    :param topic: what a publisher's message starts with.
    """
    parts = [write_json(part) for part in (new_header(msg_type), parent, {}, content)]
    return pack(parts, signer, prefix=[topic.encode()] if topic else [])


def _count_values(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _count_opening(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def _check_shape(data: bytes) -> None:
    if _count_values(data) > MAX_VALUES:
        raise ZmtpError(f"a message holds over {MAX_VALUES} values")
    depth = 0
    for bracket in data.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ZmtpError(f"a message is nested over {MAX_DEPTH} deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _is_short(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _MAX_FIELD)
