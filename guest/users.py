"""Users and groups, as the image's /etc/passwd and /etc/group have them."""

from typing import NamedTuple


class User(NamedTuple):
    """Who a program runs as."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def find_user(wanted: str, etc: str = "/etc") -> User:
    """The user that ``NAME``, ``UID``, ``NAME:GROUP`` or ``UID:GID`` means; empty means root.

    A number need not be in /etc/passwd (its group is 0 then, as Docker has it). Reads below ``/``: call it inside the
    image's root.

    :raise LookupError: no such name.
    """
    name, _, group = (wanted or "0").partition(":")
    number = name.isdecimal()
    for fields in _entries(f"{etc}/passwd", 7):
        if name == (fields[2] if number else fields[0]):
            uid, gid, home, login = int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
            break
    else:
        if not number:
            raise LookupError(f"the image has no user {name}")
        uid, gid, home, login = int(name), 0, "/root" if name == "0" else "/", ""
    if group:
        gid = _find_group(group, etc)
        return User(uid, gid, [gid], home)
    others = [int(fields[2]) for fields in _entries(f"{etc}/group", 4) if login and login in fields[3].split(",")]
    return User(uid, gid, sorted({gid, *others}), home)


def _find_group(wanted: str, etc: str) -> int:
    if wanted.isdecimal():
        return int(wanted)
    for fields in _entries(f"{etc}/group", 4):
        if fields[0] == wanted:
            return int(fields[2])
    raise LookupError(f"the image has no group {wanted}")


def _entries(path: str, count: int) -> list[list[str]]:
    """The well-formed lines of a colon-separated table; none where the file is missing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            rows = [line.rstrip("\n").split(":") for line in lines]
    except OSError:
        return []
    return [row for row in rows if len(row) == count and row[2].isdecimal()]
