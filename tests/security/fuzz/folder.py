"""A guest that asks for what is in a folder, and a server that may be taken over: what passes the gate is safe."""

from hyper_kernel.mounts.gate import MAX_FIDS, Gate
from hyper_kernel.mounts.messages import ProtocolError
from tests.security import nine_p
from tests.security.nine_p import message, number, text

_NAMES = ("a", "b", "sub", "..", ".", "", "/", "a/b", "a\0", "x" * 255, "x" * 256, "\udcff")
_FIDS = (*range(6), MAX_FIDS - 1, MAX_FIDS, nine_p.NOFID)
_FLAGS = (0, 1, 2, 3, 0o1000, 0o100, 0o4755, 0o2755, 0o755, 0, 1000, nine_p.NOUSER)
_KINDS = tuple(nine_p.LAYOUTS)
_REFUSED = {
    nine_p.SYMLINK,
    nine_p.MKNOD,
    nine_p.XATTRWALK,
    nine_p.XATTRCREATE,
    nine_p.RENAMEAT,
    nine_p.UNLINKAT,
    nine_p.AUTH,
}
_LOCAL = {nine_p.FLUSH, nine_p.LOCK, nine_p.GETLOCK}
_CHANGING = {nine_p.LCREATE, nine_p.RENAME, nine_p.SETATTR, nine_p.LINK, nine_p.MKDIR, nine_p.WRITE, nine_p.REMOVE}


def run(choices):
    read_only = choices.rarely(3)
    gate, server = Gate(read_only=read_only), _Server(choices, read_only=read_only)
    first = message(nine_p.VERSION, 65536, "9P2000.L"), message(nine_p.ATTACH, 0, nine_p.NOFID, "root", "/folder", 0)
    asked = [*first] if not choices.rarely(8) else []
    try:
        while asked or choices.left:
            frame = asked.pop(0) if asked else choices.bend(_make_request(choices))
            if not 7 <= len(frame) <= 65536:
                continue
            passed, answer = gate.ask(len(frame).to_bytes(4, "little") + frame[4:])
            for each in passed:
                answer = server.take(each)
                if each[4] == frame[4]:
                    gate.note(answer)
            assert passed or int.from_bytes(answer[:4], "little") == len(answer)
            assert passed or answer[4] in (nine_p.RLERROR, frame[4] + 1)
    except ProtocolError as exc:
        assert len(str(exc)) < 500


class _Server:
    """Knows what a server must never be asked; answers, mostly as one would."""

    def __init__(self, choices, *, read_only):
        self._choices = choices
        self._read_only = read_only
        self._kinds = []
        #: Its fids: whether each is a link, and whether it is open.
        self._fids = {}
        self._has_lied = False

    def take(self, frame):
        kind, body = frame[4], frame[7:]
        assert int.from_bytes(frame[:4], "little") == len(frame) <= 65536
        fids, names, numbers, strings, rest = _take_apart(kind, body)
        assert rest == b""
        assert kind not in _REFUSED | _LOCAL and not (self._read_only and kind in _CHANGING)
        assert (kind == nine_p.VERSION) == (self._kinds == [])
        self._kinds.append(kind)
        assert all(fid <= MAX_FIDS for fid in fids)
        assert all(0 < len(name) < 256 and name not in (b".", b"..") for name in names)
        assert not any({*name} & {*b"/\0"} for name in names)
        if not self._has_lied:
            self._check(kind, fids, names, numbers, strings)
        return self._answer(kind, fids, names)

    def _check(self, kind, fids, names, numbers, strings):
        links, opened = (
            {fid for fid, (is_link, _) in self._fids.items() if is_link},
            {fid for fid, (_, is_open) in self._fids.items() if is_open},
        )
        if kind in (nine_p.LOPEN, nine_p.LCREATE, nine_p.STATFS, nine_p.MKDIR, nine_p.LINK):
            assert fids[0] not in links
        if kind == nine_p.RENAME:
            assert fids[1] not in links and fids[0] not in opened
        if kind == nine_p.WALK:
            assert not (names and fids[0] in links) and len(names) <= 16
            assert fids[1] not in self._fids or (fids[0] == fids[1] and fids[0] not in opened)
        if kind == nine_p.ATTACH:
            assert fids[-1] not in self._fids
        if kind == nine_p.ATTACH:
            assert strings[1] == b"/folder" and numbers[1] in (0, nine_p.NOUSER)
        if kind in (nine_p.READ, nine_p.READDIR):
            assert numbers[1] <= 65536 - 24
        if kind == nine_p.LCREATE:
            assert not numbers[1] & 0o6000
        if kind in (nine_p.LOPEN, nine_p.LCREATE):
            assert numbers[0] & 0o404000 == 0o404000 and not (self._read_only and numbers[0] & 0o1003)
        if kind == nine_p.SETATTR and numbers[0] & 0x1:
            assert not numbers[1] & 0o6000
        if kind == nine_p.SETATTR and numbers[0] & 0x9:
            assert fids[0] not in links

    def _answer(self, kind, fids, names):
        if kind in (nine_p.CLUNK, nine_p.REMOVE):
            self._fids.pop(fids[0], None)
        if self._choices.rarely(8) or (kind != nine_p.ATTACH and fids and fids[0] not in self._fids):
            return message(nine_p.RLERROR, 2)
        body = b""
        if kind == nine_p.WALK:
            count = self._choices.below(len(names) + 1) if self._choices.rarely() else len(names)
            if names and not count:
                return message(nine_p.RLERROR, 2)
            qids = [bytes([self._choices.pick((0, 0x80, 0x80, 2))]) + bytes(12) for _ in range(count)]
            body = number(count, 2) + b"".join(qids)
            self._fids[fids[1]] = (qids[-1][0] == 2 if qids else self._fids[fids[0]][0], False)
        elif kind == nine_p.ATTACH:
            self._fids[fids[0]] = (False, False)
        elif kind in (nine_p.LOPEN, nine_p.LCREATE):
            self._fids[fids[0]] = (False, True)
        if self._choices.rarely(64):  # a server that has been taken over: there is nothing more to keep from it
            self._has_lied = True
            return message(self._choices.pick((kind + 1, nine_p.RLERROR, 111)), body[: self._choices.below(8)])
        return message(kind + 1, body)


def _make_request(choices):
    kind = choices.pick(_KINDS)
    return message(kind, *(_make_part(choices, letter) for letter in nine_p.LAYOUTS[kind]))


def _make_part(choices, letter):
    if letter == "f":
        return choices.pick(_FIDS) if choices.rarely(4) else choices.below(6)
    if letter in "ns":
        return _make_name(choices)
    if letter == "w":
        names = [_make_name(choices) for _ in range(choices.byte() % 3)]
        return number(len(names), 2) + b"".join(names)
    if letter == "d":
        return number(2) + b"ab"
    size = 4 if letter == "c" else int(letter)
    value = choices.pick(_FLAGS) if choices.rarely(2) else choices.number(8 * size)
    return number(value & (1 << 8 * size) - 1, size)


def _make_name(choices):
    name = choices.pick(_NAMES) if choices.rarely(4) else choices.pick(_NAMES[:3])
    return text(name.encode(errors="surrogateescape"))


def _take_apart(kind, body):
    """Fids, names, numbers, strings, and what is left."""
    fids, names, numbers, strings = [], [], [], []

    def take(size):
        nonlocal body
        assert size <= len(body)
        taken, body = body[:size], body[size:]
        return taken

    for letter in nine_p.LAYOUTS[kind]:
        if letter in "ns":
            (names if letter == "n" else strings).append(take(int.from_bytes(take(2), "little")))
        elif letter == "w":
            names += [take(int.from_bytes(take(2), "little")) for _ in range(int.from_bytes(take(2), "little"))]
        elif letter == "d":
            take(int.from_bytes(take(4), "little"))
        else:
            value = int.from_bytes(take(int(letter) if letter.isdigit() else 4), "little")
            (fids if letter == "f" else numbers).append(value)
    return fids, names, numbers, strings, body
