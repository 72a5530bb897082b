"""What stands between a guest and the server of its folder: only what a guest's own kernel would ask passes; pure.

The server is C that trusts its clients. A count near 2^32, a second Tversion, or two requests for one fid at once
corrupt its memory; it keeps fids that are made again; names may have ``..`` and ``/``; and it takes other folders for
the exported one. So each request is read here first: what passes is whole, names nothing outside the folder, goes
through nothing that was a link when it was walked to, and comes alone.
"""

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass

from hyper_kernel.mounts.messages import (
    HEADER,
    RLERROR,
    Parts,
    ProtocolError,
    Request,
    pack_message,
    pack_number,
    pack_string,
    parse_request,
)
from hyper_kernel.wire import FOLDER, FOLDER_MSIZE, FOLDER_USER, FOLDER_VERSION

#: What of a message is not the data that it carries; see P9_IOHDRSZ in Linux.
_OVERHEAD = 24
#: Numbers of fids end here. Linux takes the lowest that is free, so that this bounds what the server holds.
MAX_FIDS = 1 << 16
_MAX_WALK, _MAX_NAME = 16, 255
_NO_FID = _NO_USER = (1 << 32) - 1
#: A fid of ours, in whose place no guest can have one.
_SPARE = MAX_FIDS
_QID_SIZE, _QID_LINK = 13, 0x02
_UNLOCKED = 2
#: Flags of opening: writing, emptying; and those that are always added.
_ACCESS, _TRUNCATE, _NONBLOCK, _NOFOLLOW = 0o3, 0o1000, 0o4000, 0o400000
#: What Tsetattr sets. The server follows links for the mode and the size.
_SETS_MODE, _SETS_UID, _SETS_GID, _SETS_SIZE = 0x1, 0x2, 0x4, 0x8
#: Where a user and a group stand, in Tsetattr and in what answers Tgetattr; the first has what it sets before them.
_SET_OWNER, _GOT_OWNER = HEADER + 12, HEADER + 25

#: Never passed on. Links that programs of the host would follow out of the folder, devices, pipes and sockets that they
#: would wait for: none is made. The server reads its own memory where it should read attributes. For the last two Linux
#: has others.
_REFUSED = {
    Request.SYMLINK: errno.EPERM,
    Request.MKNOD: errno.EPERM,
    Request.XATTRWALK: errno.EOPNOTSUPP,
    Request.XATTRCREATE: errno.EOPNOTSUPP,
    Request.AUTH: errno.EOPNOTSUPP,
    Request.RENAMEAT: errno.EOPNOTSUPP,
    Request.UNLINKAT: errno.EOPNOTSUPP,
}
_CHANGING = frozenset(
    {
        *(Request.LCREATE, Request.RENAME, Request.SETATTR, Request.FSYNC, Request.LINK, Request.MKDIR),
        *(Request.WRITE, Request.REMOVE, Request.SYMLINK, Request.MKNOD, Request.XATTRCREATE),
    }
)
#: Which of their fids the server would follow if it is a link.
_THROUGH = {
    Request.STATFS: 0,
    Request.LOPEN: 0,
    Request.LCREATE: 0,
    Request.MKDIR: 0,
    Request.LINK: 0,
    Request.RENAME: 1,
}


class _RefusedError(Exception):
    """A request is refused; ``number`` is the reason, of ``errno``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(slots=True)
class _Fid:
    """What the server has under a number: whether it is a link, and whether it is open."""

    is_link: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group of the guest's, as numbers."""

    uid: int
    gid: int


#: What the server calls its own user, and who has a folder where nothing else is said.
ROOT = Owner(0, 0)


class Gate:
    """The gate of one mount.

    :param read_only: whether its folder can only be read.
    :param owner: who in the guest is to find that the folder is theirs.
    """

    def __init__(self, *, read_only: bool, owner: Owner = ROOT) -> None:
        self._read_only = read_only
        self._owner = owner
        self._has_begun = False
        self._fids: dict[int, _Fid] = {}
        #: What was passed on last.
        self._asked: tuple[Request, Parts] | None = None
        self._rules: dict[int, Callable[[Parts], None]] = {
            Request.VERSION: self._check_version,
            Request.ATTACH: _check_attach,
            Request.LOPEN: self._check_open,
            Request.LCREATE: _check_create,
            Request.SETATTR: self._check_setattr,
            Request.WALK: self._check_walk,
            Request.CLUNK: self._forget,
            Request.REMOVE: self._forget,
        }

    def ask(self, frame: bytes) -> tuple[list[bytes], bytes]:
        """Judge a request; the server must have answered all before.

        :param frame: a whole one, of ``HEADER`` to ``FOLDER_MSIZE`` bytes.
        :return: what the server shall get, one after the other, of which the answer to the one of the request's type
            is the guest's; or nothing, and the answer.
        :raise ProtocolError: it is none.
        """
        kind, parts = parse_request(frame)
        tag = frame[5:HEADER]
        try:
            if (answer := _answer(kind, parts)) is not None:
                return [], pack_message(kind + 1, tag, answer)
            self._check(kind, parts)
            if rule := self._rules.get(kind):
                rule(parts)
        except _RefusedError as exc:
            return [], pack_message(RLERROR, tag, pack_number(exc.number, 4))
        self._asked = kind, parts
        return self._plan(kind, parts, frame), b""

    def note(self, answer: bytes) -> bytes:
        """Learn from the server's answer to a request that was passed on; the answer as the guest gets it.

        :raise ProtocolError: it is none.
        """
        assert self._asked, "there is an answer to what was asked"
        kind, parts = self._asked
        is_done = answer[4] == kind + 1
        if kind in (Request.LOPEN, Request.LCREATE) and is_done:
            self._fids[parts.fids[0]] = _Fid(is_open=True)
        if (made := _find_made(kind, parts)) is not None:
            self._fids.pop(made, None)  # an earlier one of that number has gone
        if is_done and kind is Request.WALK:
            is_link = _reads_link(answer, self._get(parts.fids[0]).is_link)
            self._fids[parts.fids[1]] = _Fid(is_link=is_link)
        elif is_done and made is not None:
            self._fids[made] = _Fid()
        elif is_done and kind is Request.GETATTR:
            return _rename_owner(answer, _GOT_OWNER, ROOT, self._owner)
        return answer

    def _plan(self, kind: Request, parts: Parts, frame: bytes) -> list[bytes]:
        """What to ask the server, for one request."""
        if kind is Request.SETATTR:
            frame = _rename_owner(frame, _SET_OWNER, self._owner, ROOT, parts.numbers[0])
        asked, tag = [_harden(kind, parts, frame)], frame[5:HEADER]
        made = _find_made(kind, parts)
        if made is not None and made in self._fids:
            # SECURITY: the server would keep the old one as well, out of reach and without end. Linux may forget one.
            asked.insert(0, pack_message(Request.CLUNK, tag, pack_number(made, 4)))
        if kind is Request.RENAME and self._get(parts.fids[0]).is_open:
            # SECURITY: the server loses count of the open ones of a name when one of them changes its own.
            source, spare = pack_number(parts.fids[0], 4), pack_number(_SPARE, 4)
            asked = [
                pack_message(Request.WALK, tag, source + spare + pack_number(0, 2)),
                frame[:HEADER] + spare + frame[HEADER + 4 :],
                pack_message(Request.CLUNK, tag, spare),
            ]
        return asked

    def _check(self, kind: Request, parts: Parts) -> None:
        """What holds for all requests.

        :raise _RefusedError: this one is not allowed.
        """
        if self._read_only and kind in _CHANGING:
            raise _RefusedError(errno.EROFS)
        if kind in _REFUSED:
            raise _RefusedError(_REFUSED[kind])
        if self._has_begun == (kind == Request.VERSION):
            raise _RefusedError(errno.EPROTO)
        # SECURITY: so many fids, each of a bounded size, is all that the server holds for a guest.
        if any(fid >= MAX_FIDS for fid in parts.fids):
            raise _RefusedError(errno.EMFILE)
        # SECURITY: a name is that of an entry of one folder, so that no walk leaves the tree that was exported.
        if not all(_is_name(name) for name in parts.names):
            raise _RefusedError(errno.EPERM)
        if any(count > FOLDER_MSIZE - _OVERHEAD for count in parts.counts):
            raise _RefusedError(errno.EINVAL)
        # SECURITY: nothing is reached by a link: the guest's kernel follows links itself, among the guest's files.
        if kind in _THROUGH and self._get(parts.fids[_THROUGH[kind]]).is_link:
            raise _RefusedError(errno.ELOOP)

    def _check_version(self, parts: Parts) -> None:
        # SECURITY: once, and for the size that the server begins with: it takes what comes after a change for shorter.
        if parts.numbers != [FOLDER_MSIZE] or parts.strings != [FOLDER_VERSION.encode()]:
            raise _RefusedError(errno.EPROTO)
        self._has_begun = True

    def _check_open(self, parts: Parts) -> None:
        flags = parts.numbers[0]
        if self._read_only and flags & (_ACCESS | _TRUNCATE):
            raise _RefusedError(errno.EROFS)

    def _check_setattr(self, parts: Parts) -> None:
        valid, mode = parts.numbers[:2]
        if valid & (_SETS_MODE | _SETS_SIZE) and self._get(parts.fids[0]).is_link:
            raise _RefusedError(errno.ELOOP)
        if valid & _SETS_MODE:
            _check_mode(mode)

    def _check_walk(self, parts: Parts) -> None:
        source = self._get(parts.fids[0])
        # SECURITY: what is open keeps its name, as in a rename.
        if len(parts.names) > _MAX_WALK or (source.is_open and parts.fids[0] == parts.fids[1]):
            raise _RefusedError(errno.EINVAL)
        if parts.names and source.is_link:
            raise _RefusedError(errno.ELOOP)

    def _get(self, number: int) -> _Fid:
        return self._fids.get(number, _Fid())

    def _forget(self, parts: Parts) -> None:
        self._fids.pop(parts.fids[0], None)  # the server does, whatever it answers


def _rename_owner(frame: bytes, at: int, here: Owner, there: Owner, sets: int = _SETS_UID | _SETS_GID) -> bytes:
    """A message in which one side's owner stands for the other's; nobody else is renamed."""
    for each, this, that in ((_SETS_UID, here.uid, there.uid), (_SETS_GID, here.gid, there.gid)):
        if sets & each and frame[at : at + 4] == pack_number(this, 4):
            frame = frame[:at] + pack_number(that, 4) + frame[at + 4 :]
        at += 4
    return frame


def _find_made(kind: Request, parts: Parts) -> int | None:
    """The fid that a request makes; None where it makes none, or changes one in its place."""
    if kind is Request.ATTACH:
        return parts.fids[0]
    if kind is Request.WALK and parts.fids[0] != parts.fids[1]:
        return parts.fids[1]
    return None


def _reads_link(answer: bytes, before: bool) -> bool:
    """Whether a walk has ended at a link.

    :param before: whether it began at one.
    :raise ProtocolError: it is no answer to a walk.
    """
    count, qids = int.from_bytes(answer[HEADER : HEADER + 2], "little"), answer[HEADER + 2 :]
    if len(answer) < HEADER + 2 or len(qids) != count * _QID_SIZE:
        raise ProtocolError("the server of a folder answered what is no 9P")
    return bool(qids[-_QID_SIZE] & _QID_LINK) if count else before


def _answer(kind: Request, parts: Parts) -> bytes | None:
    """The answer to what needs no server; None where it does."""
    if kind is Request.FLUSH:
        return b""  # requests come one at a time: what it means is answered
    if kind is Request.LOCK:
        # The guest's kernel has asked its own locks before. The server's are of whole files, and would refuse more.
        return b"\0"
    if kind is Request.GETLOCK:
        _, start, length, process = parts.numbers
        place = pack_number(start, 8) + pack_number(length, 8) + pack_number(process, 4)
        return bytes([_UNLOCKED]) + place + pack_string(parts.strings[0])
    return None


def _harden(kind: Request, parts: Parts, frame: bytes) -> bytes:
    """A request as the server gets it."""
    if kind in (Request.LOPEN, Request.LCREATE):
        # SECURITY: what is a link by now is not opened, and a pipe that somebody has made on the host holds nobody up.
        flags = parts.numbers[0] | _NONBLOCK | _NOFOLLOW
        at = HEADER + 4 + sum(len(pack_string(name)) for name in parts.names)
        frame = frame[:at] + pack_number(flags, 4) + frame[at + 4 :]
    if kind in (Request.LCREATE, Request.MKDIR):
        # The server would try to have the guest's group, and fail for good: there is one group where it is.
        frame = frame[:-4] + pack_number(_NO_USER, 4)
    return frame


def _check_attach(parts: Parts) -> None:
    auth, user = parts.numbers
    name, folder = parts.strings
    # SECURITY: one folder and one user, who is the server's own. It would start threads for each other name, and
    # compares no more of it than where its slash is.
    if name not in (FOLDER_USER.encode(), b"") or folder != FOLDER.encode():
        raise _RefusedError(errno.EPERM)
    if auth != _NO_FID or user not in (_NO_USER, 0):
        raise _RefusedError(errno.EPERM)


def _check_create(parts: Parts) -> None:
    _check_mode(parts.numbers[1])


def _check_mode(mode: int) -> None:
    # SECURITY: nothing is made that runs as its owner, who is somebody on the host.
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise _RefusedError(errno.EPERM)


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= _MAX_NAME and name not in (b".", b"..") and not {*b"/\0"} & {*name}
