"""Messages of 9P2000.L: requests taken apart, whole or not at all; pure.

As diod's protocol.md and Linux' net/9p/client.c have them: size[4] type[1] tag[2], then what ``_LAYOUTS`` says.
"""

from enum import IntEnum

from hyper_kernel.errors import GuestError

HEADER = 7


class ProtocolError(GuestError):
    """A guest, or a server that it has taken over, says what is no 9P: the mount ends."""


class Request(IntEnum):
    """Types of requests; an answer has the next number."""

    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


#: The answer to what failed: its number, of ``errno``.
RLERROR = 7

#: f fid, n name, s string, c a count of bytes to be read, d bytes to be written, w names to walk; digits: a number of
#: so many bytes.
_LAYOUTS = {
    Request.STATFS: "f",
    Request.LOPEN: "f4",
    Request.LCREATE: "fn444",
    Request.SYMLINK: "fns4",
    Request.MKNOD: "fn4444",
    Request.RENAME: "ffn",
    Request.READLINK: "f",
    Request.GETATTR: "f8",
    Request.SETATTR: "f444488888",
    Request.XATTRWALK: "ffs",
    Request.XATTRCREATE: "fs84",
    Request.READDIR: "f8c",
    Request.FSYNC: "f4",
    Request.LOCK: "f14884s",
    Request.GETLOCK: "f1884s",
    Request.LINK: "ffn",
    Request.MKDIR: "fn44",
    Request.RENAMEAT: "fnfn",
    Request.UNLINKAT: "fn4",
    Request.VERSION: "4s",
    Request.AUTH: "4ss4",
    Request.ATTACH: "f4ss4",
    Request.FLUSH: "2",
    Request.WALK: "ffw",
    Request.READ: "f8c",
    Request.WRITE: "f8d",
    Request.CLUNK: "f",
    Request.REMOVE: "f",
}


class Parts:
    """What a request says, by the letters of its layout.

    :ivar fids, names, counts, numbers, strings: in the order in which they come.
    """

    def __init__(self) -> None:
        self.fids: list[int] = []
        self.names: list[bytes] = []
        self.counts: list[int] = []
        self.numbers: list[int] = []
        self.strings: list[bytes] = []


def parse_request(frame: bytes) -> tuple[Request, Parts]:
    """Take a request apart.

    :param frame: a whole message.
    :raise ProtocolError: it is no request, or has too few or too many bytes.
    """
    try:
        kind = Request(frame[4])
        parts, left = Parts(), frame[HEADER:]
        for letter in _LAYOUTS[kind]:
            left = _take(parts, letter, left)
        # SECURITY: all of it was looked at; nothing is left that the server could take for something else.
        if left:
            raise ValueError(f"{kind.name} has {len(left)} bytes too many")
    except ValueError as exc:
        raise ProtocolError(f"the guest sent no 9P to the server of its folder: {exc}") from exc
    return kind, parts


def pack_message(kind: int, tag: bytes, body: bytes) -> bytes:
    """A whole message."""
    return (HEADER + len(body)).to_bytes(4, "little") + bytes([kind]) + tag + body


def pack_number(value: int, size: int) -> bytes:
    """A number of so many bytes."""
    return value.to_bytes(size, "little")


def pack_string(text: bytes) -> bytes:
    """A string or a name."""
    return pack_number(len(text), 2) + text


def _take(parts: Parts, letter: str, left: bytes) -> bytes:
    """Take one part; what is left.

    :raise ValueError: there is not so much.
    """
    if letter in "ns":
        text, left = _take_string(left)
        (parts.names if letter == "n" else parts.strings).append(text)
    elif letter == "w":
        count, left = _take_number(left, 2)
        for _ in range(count):
            name, left = _take_string(left)
            parts.names.append(name)
    elif letter == "d":
        count, left = _take_number(left, 4)
        _, left = _take_bytes(left, count)
    else:
        value, left = _take_number(left, int(letter) if letter.isdigit() else 4)
        {"f": parts.fids, "c": parts.counts}.get(letter, parts.numbers).append(value)
    return left


def _take_string(left: bytes) -> tuple[bytes, bytes]:
    size, left = _take_number(left, 2)
    return _take_bytes(left, size)


def _take_number(left: bytes, size: int) -> tuple[int, bytes]:
    data, left = _take_bytes(left, size)
    return int.from_bytes(data, "little"), left


def _take_bytes(left: bytes, size: int) -> tuple[bytes, bytes]:
    if size > len(left):
        raise ValueError(f"{size} bytes are to follow, and {len(left)} do")
    return left[:size], left[size:]
