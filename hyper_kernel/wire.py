"""The contract between host and guest, used by both sides; standard library only, no I/O.

Version rule: ``VERSION`` grows with every change that an older peer could misread. The guest says its version in
HELLO, the host its own in WELCOME; each side refuses any other than its own. Numbers of messages are never reused.

The guest listens on one vsock port, ``STREAM_PORT``; the host dials it, one connection per stream, and starts each
with OPEN. (The host dials, since all guests share its ports where the kernel's vhost-vsock is the host's end.)

A frame::

    0        4      5                  5 + length
    +--------+------+------------------+
    | length | type | payload          |      length: big endian, of the payload alone
    +--------+------+------------------+

REQUEST is ``{"id": int, "op": str, "args": {...}}``; REPLY is ``{"id": int, "result": {...}}`` or
``{"id": int, "error": str}``; EVENT is ``{"event": str, ...}``. The same frames run between hyperd and a shim.

Operations (guest)::

    resync        {time_ns, entropy (hex, >= 32 bytes), hostname, scratch_mib, processes,
                   image: {env: [str], user: str, cwd: str}}
                  -> {}      always first: nothing else is served before it. ``scratch_mib`` and ``processes`` bound
                             what the user's programs write and start (0: half of the memory, any number)
    kernel.start  {name: str|null, arguments: [str] (after the kernelspec's), key: str, env: {str: str}, cwd: str,
                   client: {connection info sent as is}}
                  -> {pid, ports: {shell, iopub, stdin, control, hb}, spec: {kernel.json of the image}}
    kernel.signal {signal: int} -> {}          to the kernel's whole process group; no error when it is gone
    changes       {path: str} -> {count: int}  entries below path that changed after the last put there that was its
                  base (all of them where there was none); at most MAX_CHANGES are counted
    user          {name: str} -> {uid: int, gid: int}      who that is in the image; the image's user where empty
    mounted       {} -> {}                     once the last folder stream has become a mount; an error where it did not
    stats         {} -> {mem_total, mem_available (bytes), scratch_total, scratch_free (bytes), processes, uptime_s}
    ping          {} -> {}                     says that the agent lives
    poweroff      {} -> {}                     syncs and powers the machine off

Events (guest): ``kernel.exit`` END.

END, of the kernel as of programs, is ``{code: int|null, signal: int|null}``. Where that tells of no success, what may
be the cause follows: ``oom_kills`` and ``forks_refused`` (how often the guest's kernel killed for want of memory, and
refused a process, since it booted), ``processes`` (the user's, now), ``scratch_free`` (bytes).

Streams start with ``OPEN {"kind": ...}``, answered by OPENED or by REFUSED ``{"error": str, "code": int}``::

    control  answered by HELLO {version, ...}; the host sends WELCOME {version}; then REQUEST / REPLY / EVENT for as
             long as the device lives. The newest control stream is the live one

    exec     {argv: [str], env: {str: str}, cwd: str, user: str, tty: bool, rows: int, cols: int} -> OPENED {pid}
             then STDIN / STDIN_EOF / RESIZE {rows, cols} / SIGNAL {signal} to the guest,
             STDOUT / STDERR / EXIT END to the host; EXIT is the last frame
    put      {path: str, base: bool}: STDIN carries a tar archive that is unpacked below path, STDIN_EOF ends it;
             then EXIT. ``base`` makes what is there then unchanged
    get      {path: str, changes: bool, max_size: int}: STDOUT carries a tar archive of path (a folder or one file), or
             of what ``changes`` counts, with names relative to path and without files over max_size (bytes; left out:
             of any size); then EXIT
    list     {path: str, layer: bool}: STDOUT carries what is below path, up to MAX_LISTED entries: for each file,
             folder and link its kind ``f``, ``d`` or ``l``, its mark, its size in bytes, a space, its path from there,
             and a zero byte; then EXIT. The mark is ``+`` for what ``changes`` counts and ``=`` for all else. ``layer``
             lists instead what the image has not as it came, from its root: ``+`` added, ``=`` changed, ``-`` deleted
             (put, get and list: on failure STDERR carries the reason and EXIT's code is not 0)
    folder   {path: str, read_only: bool} -> OPENED {}: from here on the connection carries 9P2000.L, by which the guest
             mounts what the host serves as FOLDER at path; ``mounted`` says whether it does
    log      {} -> OPENED {}: STDERR carries what kernels' processes wrote and go on writing beside their channels. The
             newest log stream is the live one
    connect  {port: int, wait_s: float} -> OPENED {}: from here on the connection is a plain byte stream to
             127.0.0.1:port in the guest
"""

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

VERSION = 6
STREAM_PORT = 1024
#: The five channels of a kernel are offered at these TCP ports of the guest's loopback: below the ephemeral ports,
#: which dials of the same ports would take (a dial can even meet itself, see simultaneous open in RFC 9293).
KERNEL_PORTS = {"shell": 27001, "iopub": 27002, "stdin": 27003, "control": 27004, "hb": 27005}
#: Entries that ``changes`` counts and ``get`` sends of what changed.
MAX_CHANGES = 20_000
#: Entries that ``list`` sends.
MAX_LISTED = 50_000
#: Largest payload of one frame, in bytes; larger ones are a violation of the contract.
MAX_PAYLOAD = 256 * 1024
#: Data frames (STDIN, STDOUT, STDERR) carry at most this many bytes, so that frames of streams interleave.
MAX_DATA = 64 * 1024
#: How a guest asks for a folder: the protocol, the size of its messages, the folder's name, who asks.
FOLDER_VERSION, FOLDER_MSIZE, FOLDER, FOLDER_USER = "9P2000.L", 64 * 1024, "/folder", "root"

_HEADER = struct.Struct(">IB")


class Type(IntEnum):
    """The number of a frame's type. Never reuse one."""

    HELLO = 1
    WELCOME = 2
    REQUEST = 3
    REPLY = 4
    EVENT = 5
    OPEN = 16
    OPENED = 17
    REFUSED = 18
    STDIN = 32
    STDIN_EOF = 33
    STDOUT = 34
    STDERR = 35
    EXIT = 36
    RESIZE = 37
    SIGNAL = 38


_KNOWN = frozenset(Type)
#: Types whose payload is raw bytes; all others carry a JSON object.
RAW_TYPES = frozenset({Type.STDIN, Type.STDOUT, Type.STDERR})


class WireError(Exception):
    """The peer broke the contract."""


def pack(kind: Type, payload: bytes | dict[str, Any] = b"") -> bytes:
    """One frame.

    :param kind: its type.
    :param payload: bytes for a raw type, a JSON object (dict) for any other; empty bytes mean ``{}`` there.
    :raise WireError: the payload is over ``MAX_PAYLOAD``.
    """
    body = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
    if len(body) > MAX_PAYLOAD:
        raise WireError(f"a {kind.name} frame of {len(body)} bytes is over the limit of {MAX_PAYLOAD}")
    return _HEADER.pack(len(body), kind) + body


def parse(kind: Type, payload: bytes) -> dict[str, Any]:
    """The JSON object in a frame's payload.

    :raise WireError: it is not a JSON object.
    """
    if not payload:
        return {}
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"a {kind.name} frame does not hold JSON") from exc
    if not isinstance(value, dict):
        raise WireError(f"a {kind.name} frame does not hold a JSON object")
    return value


class Decoder:
    """Cuts a byte stream into frames; holds at most one frame's bytes beyond what it was last fed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def missing(self) -> int:
        """How many bytes the frame under way lacks at least; reading no more never reads past its end."""
        if len(self._buffer) < _HEADER.size:
            return _HEADER.size - len(self._buffer)
        length, _ = _HEADER.unpack_from(self._buffer)
        return int(_HEADER.size + length - len(self._buffer))

    def feed(self, data: bytes) -> Iterator[tuple[Type, bytes]]:
        """Take bytes, yield the frames they complete as ``(type, payload)``.

        :raise WireError: an unknown type or an oversized length; the stream cannot be read on after that.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            length, number = _HEADER.unpack_from(self._buffer)
            # SECURITY: a peer can never make the other side hold more than MAX_PAYLOAD bytes for one frame.
            if length > MAX_PAYLOAD:
                raise WireError(f"a frame of {length} bytes is over the limit of {MAX_PAYLOAD}")
            if number not in _KNOWN:
                raise WireError(f"frame type {number} is not known to version {VERSION}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Type(number), payload


def check_version(hello: dict[str, Any]) -> None:
    """Refuse a peer of another version.

    :param hello: the object in its HELLO or WELCOME.
    :raise WireError: its version is not ``VERSION``.
    """
    theirs = hello.get("version")
    if theirs != VERSION:
        raise WireError(f"the peer speaks version {theirs!r} of the contract, this side version {VERSION}")
