"""An archive that a guest made: it writes nothing outside its folder, and holds no more than it may."""

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from hyper_kernel.errors import GuestError, HostError
from hyper_kernel.host.tar import MAX_EXTENDED, TarReader, extract
from tests.security.fuzz.choices import EDGES

_FOLDER = tempfile.TemporaryDirectory(prefix="hyper-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_NAMES = (
    *("a", "a/b", "a/b/c", "a/../b", "../x", "/etc/x", "a/./b", "", ".", "..", "a//b", "a/", "a\0b", "l", "a/l/x"),
    *("é" * 60, "x" * 300),
)
_VALUES = (b"a/b", b"../x", b"/x", b"5", b"-1", b"1e999", b"nan", b"9" * 30, b"a/" * 300, b"\xff\xfe", b"0", b"4096")
_KINDS = b"0000555512x34LKg\0S7"
_MAX_BYTES = 4096


def run(choices):
    archive = _make_archive(choices)
    source = _Source(archive)
    try:
        for entry in TarReader(source):
            assert entry.size >= 0 and 0 <= entry.mtime < 1 << 33 and entry.mode < 0o10000
    except GuestError as exc:
        assert len(str(exc)) < 1000
    if choices.byte() & 3 == 0:
        _extract(archive)


class _Source(io.BytesIO):
    """Refuses reads that nobody should ask for, and notices who reads on at the end."""

    ends = 0

    def read(self, size):
        assert 0 < size <= 128 * 1024
        data = super().read(size)
        self.ends += not data
        assert self.ends < 3
        return data


def _extract(archive):
    root = Path(_FOLDER.name)
    inside = root / "in"
    inside.mkdir()
    (root / "secret").write_text("secret")
    (inside / "l").symlink_to("../secret")
    try:
        extract(_Source(archive), inside, "a", max_bytes=_MAX_BYTES)
    except (GuestError, HostError) as exc:
        assert len(str(exc)) < 5000
    finally:
        assert sorted(os.listdir(root)) == ["in", "secret"] and (root / "secret").read_text() == "secret"
        assert set(os.listdir(inside)) <= {"a", "l"} and (inside / "l").is_symlink()
        found, size = list(inside.rglob("*")), 0
        for path in found:
            info = path.lstat()
            assert path.name == "l" or not path.is_symlink()
            assert info.st_mode & 0o7000 == 0
            size += info.st_size * path.is_file() * (not path.is_symlink())
        assert size <= _MAX_BYTES
        shutil.rmtree(inside)


def _make_archive(choices):
    data = b""
    while choices.left and len(data) < 1 << 16:
        data += _make_entry(choices)
        if choices.rarely(32):
            data += bytes(512)
    return choices.bend(data)


def _make_entry(choices):
    kind = bytes([choices.pick(_KINDS)])
    content = choices.bytes(choices.byte() % 16) * choices.pick((1, 1, 40))
    name = choices.pick(_NAMES)
    if kind in b"xg":
        content = b"".join(_record(choices) for _ in range(1 + choices.byte() % 3))
    elif kind in b"LK":
        content = (name * choices.pick((1, 1, 3))).encode() + b"\0"
    info = tarfile.TarInfo()
    info.type, info.size, info.mode = kind, len(content), choices.number(16) & 0o7777
    info.linkname = choices.pick(("", "../secret", "/etc/passwd"))
    form = choices.pick((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT))
    header = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    header[:100] = name.encode()[:100].ljust(100, b"\0")
    lie = choices.byte()
    if lie < 16:
        header[124:136] = b"\x80" + choices.number(64).to_bytes(11, "big")
    elif lie < 24:
        header[124:136] = b"%011o\0" % (choices.pick(EDGES) & (1 << 33) - 1)
    elif lie < 32:
        header[choices.below(512)] = choices.byte()
    if lie < 250:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def _record(choices):
    """A record of a pax header, mostly with the length that it has."""
    key = choices.pick((b"path", b"path", b"size", b"mtime", b"linkpath", b"x"))
    value = choices.pick(_VALUES)
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body) + 3))
    if choices.rarely(8):
        length = choices.number(16)
    return str(length).encode() + body


assert MAX_EXTENDED < 128 * 1024
