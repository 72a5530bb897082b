"""Which templates go: pure, from what they take, when they were last used, and whether they can be used again."""

from collections.abc import Iterable
from dataclasses import dataclass

#: What all templates of a user may take on the disk, in bytes.
MAX_BYTES = 8 << 30
#: A template that was not used for so long goes, in seconds.
MAX_AGE_S = 30 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A template as its eviction sees it; one that is stale can never be used again."""

    key: str
    disk_bytes: int
    used_s: float
    is_stale: bool


def decide_eviction(uses: Iterable[Use], now_s: float, keep: str = "") -> list[str]:
    """The keys of those that go, stale ones first, then those that were used longest ago.

    :param now_s: the clock of ``used_s``.
    :param keep: the key of one that stays in any case.
    """
    gone, room = [], MAX_BYTES
    for use in sorted(uses, key=lambda use: (use.key != keep, use.is_stale, -use.used_s)):
        goes = use.is_stale or now_s - use.used_s > MAX_AGE_S or use.disk_bytes > room
        if goes and use.key != keep:
            gone.append(use.key)
        else:
            room -= use.disk_bytes
    return gone[::-1]
