"""One thing that was looked at on this host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing looked at.

    :param found: what is there.
    :param why: what it is needed for.
    :param mend: what to do where it is not well.
    :param ok: whether sandboxes can run with it so.
    """

    name: str
    found: str
    why: str
    mend: str = ""
    ok: bool = True
