"""What a sandbox changed below its folder, from what it was given and what it has; pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from hyper_kernel.review.names import find_fault, shown, skeleton

#: What a path's digest is where it is a folder.
FOLDER = ""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPES = {
    **dict.fromkeys(("path", "kind", "digest", "base", "fault"), str),
    "size": int,
    "is_folder": bool,
    "is_text": bool,
}


class Kind(StrEnum):
    """What became of a path since the copy went in."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that is not as it was when it was copied in.

    :ivar path: below the folder, "/" between its parts.
    :ivar is_folder: whether it is one, or was one before it was deleted.
    :ivar size: bytes that the sandbox's file has.
    :ivar digest: SHA-256 of that, in hexadecimal digits; empty where there is no content to review.
    :ivar base: SHA-256 of what was copied in; empty where nothing was.
    :ivar is_text: whether the content can be shown as text.
    :ivar fault: why it cannot be applied, whatever the host's folder has; else empty.
    """

    path: str
    kind: Kind
    is_folder: bool = False
    size: int = 0
    digest: str = ""
    base: str = ""
    is_text: bool = False
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data that :meth:`from_dict` takes back."""
        return asdict(self) | {"kind": str(self.kind)}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """A change from plain data.

        :raise ValueError: it is none, or has a path or a digest that could lead elsewhere.
        """
        if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != _TYPES:
            raise ValueError("not the fields of a change")
        # SECURITY: digests name files; paths with a fault lead nowhere, since nobody applies or opens them.
        if any(data[name] and not _DIGEST.fullmatch(data[name]) for name in ("digest", "base")):
            raise ValueError("a change with a digest that is none")
        if data["size"] < 0 or (find_fault(data["path"]) and not data["fault"]):
            raise ValueError("a change that leads elsewhere")
        return cls(**{**data, "kind": Kind(data["kind"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a guest says of one path: ``kind`` is ``f`` (file), ``d`` (folder) or ``l`` (link); ``is_new`` says whether
    it changed since the copy went in."""

    path: str
    kind: str
    is_new: bool
    size: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A file's content that the host has now: its size, its SHA-256, and whether it is text."""

    size: int
    digest: str
    is_text: bool


def plan_fetch(seen: Iterable[Seen], max_bytes: int) -> int:
    """The size up to which changed files are fetched: all of these together stay within ``max_bytes``."""
    total, largest = 0, 0
    for size in sorted(one.size for one in seen if one.kind == "f" and one.is_new):
        total += size
        if total > max_bytes:
            break
        largest = size
    return largest


def carry_base(base: Mapping[str, str], before: Mapping[str, str], written: Iterable[str]) -> dict[str, str]:
    """What a fresh machine's files are compared with, into which files of the one before went along.

    Those stay compared with what that one was given: what the host changed since then is still a conflict.

    :param base: what was copied into the fresh machine.
    :param before: what was copied into the one before.
    :param written: paths of what went along.
    """
    carried = dict(base)
    for path in written:
        carried.pop(path, None)
        if path in before:
            carried[path] = before[path]
    return carried


def plan_changes(
    seen: Mapping[str, Seen], kept: Mapping[str, Kept], base: Mapping[str, str], *, is_whole: bool
) -> list[Change]:
    """All changes, by path.

    :param seen: what the guest has, by path.
    :param kept: contents that were fetched of it.
    :param base: what was copied in: path to SHA-256, or ``FOLDER``.
    :param is_whole: whether ``seen`` is all that the guest has; if not, nothing can be told to be deleted.
    """
    changes = [change for one in seen.values() if (change := _compare(one, kept.get(one.path), base.get(one.path)))]
    if is_whole:
        gone = (path for path in base if path not in seen)
        changes += [_deleted(path, base[path]) for path in gone]
    return sorted(changes, key=lambda change: change.path)


def _compare(one: Seen, kept: Kept | None, base: str | None) -> Change | None:
    """What became of a path that the guest has; None where nothing did."""
    if not one.is_new:
        return None
    kind = Kind.ADDED if base is None else Kind.CHANGED
    fault = find_fault(one.path)
    path = one.path if not fault else shown(one.path)
    if one.kind == "l":
        return Change(path=path, kind=kind, base=base or "", fault=fault or "it is a link, and links stay inside")
    if one.kind == "d":
        was_file = bool(base)
        if base == FOLDER:
            return None
        return Change(path=path, kind=kind, is_folder=True, base=base or "", fault=fault or "it was a file" * was_file)
    if base == FOLDER:
        return Change(path=path, kind=kind, size=one.size, fault=fault or "it was a folder")
    if kept is None:
        why = "it is too large to be taken out like this: use hyper cp"
        return Change(path=path, kind=kind, size=one.size, base=base or "", fault=fault or why)
    if kept.digest == base:
        return None
    return Change(
        path=path,
        kind=kind,
        size=kept.size,
        digest=kept.digest,
        base=base or "",
        is_text=kept.is_text,
        fault=fault,
    )


def _deleted(path: str, base: str) -> Change:
    fault = find_fault(path)
    name = shown(path) if fault else path
    return Change(path=name, kind=Kind.DELETED, is_folder=base == FOLDER, base=base, fault=fault)


def find_alike(changes: Iterable[Change], present: Iterable[str]) -> dict[str, str]:
    """Added paths that may be mistaken for others, which are or would be beside them: path to such another."""
    added = [change.path for change in changes if change.kind is Kind.ADDED]
    by_look: dict[str, str] = {}
    for path in (*present, *added):
        by_look.setdefault(skeleton(path), path)
    return {path: other for path in added if (other := by_look[skeleton(path)]) != path}
