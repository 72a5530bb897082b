"""A client of 9P2000.L that asks whatever it is told to, as a hostile guest would; and a folder served to it."""

import asyncio
import contextlib
import errno
import socket
import struct
from contextlib import asynccontextmanager

from hyper_kernel.mounts.carry import carry
from hyper_kernel.mounts.gate import Gate
from hyper_kernel.mounts.server import serve_folder

RLERROR = 7
STATFS, LOPEN, LCREATE, SYMLINK, MKNOD, RENAME, READLINK, GETATTR, SETATTR = 8, 12, 14, 16, 18, 20, 22, 24, 26
XATTRWALK, XATTRCREATE, READDIR, FSYNC, LOCK, GETLOCK, LINK, MKDIR = 30, 32, 40, 50, 52, 54, 70, 72
RENAMEAT, UNLINKAT, VERSION, AUTH, ATTACH, FLUSH, WALK, READ, WRITE, CLUNK, REMOVE = (
    *(74, 76, 100, 102, 104, 108, 110, 116, 118, 120, 122),
)
NOFID = NOUSER = 0xFFFFFFFF
RDONLY, WRONLY, RDWR, TRUNC = 0, 1, 2, 0o1000
ROOT = 0
#: What requests are made of: f fid, n name, s string, w names, d data, c count, digits: numbers of so many bytes.
LAYOUTS = {
    **{STATFS: "f", LOPEN: "f4", LCREATE: "fn444", SYMLINK: "fns4", MKNOD: "fn4444", RENAME: "ffn", READLINK: "f"},
    **{GETATTR: "f8", SETATTR: "f444488888", XATTRWALK: "ffs", XATTRCREATE: "fs84", READDIR: "f8c", FSYNC: "f4"},
    **{LOCK: "f14884s", GETLOCK: "f1884s", LINK: "ffn", MKDIR: "fn44", RENAMEAT: "fnfn", UNLINKAT: "fn4"},
    **{ATTACH: "f4ss4", FLUSH: "2", WALK: "ffw", READ: "f8c", WRITE: "f8d", CLUNK: "f", REMOVE: "f", VERSION: "4s"},
}


class RefusedError(Exception):
    """The answer is an error; ``name`` is that of its number."""

    def __init__(self, number):
        self.name = errno.errorcode.get(number, str(number))
        super().__init__(self.name)


class EndedError(Exception):
    """The connection has ended."""


def number(value, size=4):
    return value.to_bytes(size, "little")


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return number(len(value), 2) + value


def message(kind, *parts, tag=1):
    """A whole request; a part is a number of four bytes, text, or bytes as they are."""
    body = b"".join(
        number(part) if isinstance(part, int) else text(part) if isinstance(part, str) else part for part in parts
    )
    return struct.pack("<IBH", 7 + len(body), kind, tag) + body


class Client:
    """Asks over a non-blocking socket, one request at a time."""

    def __init__(self, sock):
        self.sock = sock
        self._data = b""

    async def send(self, data):
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except OSError as exc:
            raise EndedError from exc

    async def receive(self):
        """The type and the body of the next answer."""
        while len(self._data) < 4 or len(self._data) < (size := int.from_bytes(self._data[:4], "little")):
            try:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
            except OSError as exc:
                raise EndedError from exc
            if not data:
                raise EndedError
            self._data += data
        answer, self._data = self._data[:size], self._data[size:]
        return answer[4], answer[7:]

    async def ask(self, kind, *parts):
        """The body of the answer to a request."""
        await self.send(message(kind, *parts))
        answer, body = await self.receive()
        if answer == RLERROR:
            raise RefusedError(int.from_bytes(body, "little"))
        assert answer == kind + 1
        return body

    async def begin(self):
        await self.ask(VERSION, 65536, "9P2000.L")
        await self.attach()

    async def attach(self, fid=ROOT, folder="/folder", *, user="root", uid=NOUSER, afid=NOFID):
        return await self.ask(ATTACH, fid, afid, user, folder, uid)

    async def walk(self, fid, new, *names):
        """The types of what is there."""
        body = await self.ask(WALK, fid, new, number(len(names), 2), *map(text, names))
        return [body[2 + 13 * at] for at in range(int.from_bytes(body[:2], "little"))]

    async def open(self, fid, flags=RDONLY):
        await self.ask(LOPEN, fid, flags)

    async def create(self, fid, name, flags=RDWR, mode=0o644, gid=0):
        await self.ask(LCREATE, fid, text(name), flags, mode, gid)

    async def read(self, fid, offset=0, count=4096):
        return (await self.ask(READ, fid, number(offset, 8), count))[4:]

    async def write(self, fid, data, offset=0):
        return int.from_bytes(await self.ask(WRITE, fid, number(offset, 8), len(data), data), "little")

    async def names(self, fid):
        """Of all in an open folder."""
        found, offset = set(), 0
        while data := (await self.ask(READDIR, fid, number(offset, 8), 32768))[4:]:
            while data:
                offset, size = int.from_bytes(data[13:21], "little"), int.from_bytes(data[22:24], "little")
                found.add(data[24 : 24 + size].decode())
                data = data[24 + size :]
        return found - {".", ".."}

    async def setattr(self, fid, valid, *, mode=0, size=0):
        await self.ask(SETATTR, fid, valid, mode, 0, 0, number(size, 8), bytes(32))

    async def getattr(self, fid):
        """Mode, user, group."""
        return struct.unpack_from("<III", await self.ask(GETATTR, fid, number(0x7FF, 8)), 21)

    async def clunk(self, fid):
        await self.ask(CLUNK, fid)

    async def refused(self, asking):
        """Why a request is refused."""
        try:
            answer = await asking
        except RefusedError as exc:
            return exc.name
        raise AssertionError(f"it was answered with {answer!r}")


@asynccontextmanager
async def served(folder, *, read_only=False, gated=True):
    """A client of a folder, and its server; without a gate: as if a guest had got around it."""
    async with serve_folder(folder, read_only=read_only) as server:
        if not gated:
            client = Client(server.sock)
            await client.begin()
            yield client, server
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            carrying = asyncio.create_task(carry(theirs, server.sock, Gate(read_only=read_only)))
            client = Client(ours)
            client.carrying = carrying
            try:
                await client.begin()
                yield client, server
            finally:
                carrying.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await carrying
