"""The door that every start passes: how many are under way at once, and whether the host has room for one more."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hyper_kernel.errors import BusyError
from hyper_kernel.host.memory import Memory, read_memory
from hyper_kernel.limits import FIRST_BYTES, RESERVE_BYTES, STARTS_PER_CPU

_T = TypeVar("_T")
_HINT = "look with hyper ps, and end some with: hyper stop NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a start is judged by: memory that it draws on, and other starts under way."""

    memories: tuple[Memory, ...]
    starting: int


def decide_admission(facts: Facts) -> BusyError | None:
    """The refusal of one more sandbox, or None where there is room.

    Guests are overcommitted on purpose: most never touch what they may, and clones may share what they have. So a
    sandbox counts as what it takes at first (``FIRST_BYTES``), as long as it starts; once it runs, what it really
    uses is no longer available to others and speaks for itself.
    """
    wanted = (facts.starting + 1) * FIRST_BYTES
    for memory in facts.memories:
        reserve = plan_reserve(memory.total_bytes)
        if memory.available_bytes - wanted < reserve:
            others = f" and {facts.starting} that start" if facts.starting else ""
            return BusyError(
                f"no memory for another sandbox: {_mib(memory.available_bytes)} of {memory.name}'s "
                f"{_mib(memory.total_bytes)} available, less {_mib(wanted)} for it{others}, "
                f"is below the limit of {_mib(reserve)} that stays free",
                hint=_HINT,
            )
    return None


def plan_reserve(total_bytes: int) -> int:
    """What stays free of so much memory."""
    return min(max(RESERVE_BYTES, total_bytes // 20), total_bytes // 4)


def count_turns() -> int:
    """How many starts the usable processors bear at once; two at least, so that one that hangs stops nobody."""
    return max(2, STARTS_PER_CPU * len(os.sched_getaffinity(0)))


class Turn:
    """The right to have a start under way; used up by :meth:`spend`.

    :param on_end: called when it is.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end

    async def spend(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do the work of a start, and let the next one begin."""
        try:
            return await work
        finally:
            self._on_end()


class Admission:
    """The door. All methods run on one event loop.

    :param read: what memory there is.
    :param turns: starts under way at once; :func:`count_turns` where it is left out.
    """

    def __init__(self, read: Callable[[], tuple[Memory, ...]] = read_memory, turns: int | None = None) -> None:
        self._read = read
        self._free = asyncio.Semaphore(turns or count_turns())
        self._under_way = 0

    async def wait_turn(self) -> Turn:
        """Wait, in the order of the calls, until so few starts are under way that one more may be.

        A caller that is cancelled leaves the queue.
        """
        await self._free.acquire()
        self._under_way += 1
        return Turn(self._end)

    def check(self) -> None:
        """Let a start, whose turn it is, go on.

        :raise BusyError: there is no room for it, see :func:`decide_admission`.
        """
        starting = max(0, self._under_way - 1)
        if refusal := decide_admission(Facts(memories=self._read(), starting=starting)):
            raise refusal

    def _end(self) -> None:
        self._under_way -= 1
        self._free.release()


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
