"""A sandbox's limits of time and output: each is waited for here, and the cause is given once it must end."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from hyper_kernel.channels.cells import Cell, Cells
from hyper_kernel.errors import HyperError
from hyper_kernel.sandbox.death import Cause, Death, named
from hyper_kernel.spec import Limits

log = logging.getLogger(__name__)

#: How long a cell that was interrupted may take to end, in seconds: its first traceback alone takes an emulated
#: processor two, on a quiet host.
_GRACE_S = 10.0
#: Rules that the kernel may break, each at the price of a connection, before its sandbox ends: so many in so many
#: seconds. One is a mishap.
MAX_VIOLATIONS, _VIOLATIONS_S = 10, 60.0

#: Says a line to the people at the channels.
Say = Callable[[str], Awaitable[None]]


class Excess(Enum):
    """Which limit a cell is over."""

    TIME = auto()
    OUTPUT = auto()


async def wait_wall(wall_s: float) -> Cause:
    """Wait until a sandbox that runs from now on has lived as long as it may, in seconds."""
    await asyncio.sleep(wall_s)
    return named(Death.WALL_LIMIT, f"it ran for {wall_s:g} s, as long as it may")


async def hold_cells(cells: Cells, limits: Limits, interrupt: Callable[[], Awaitable[None]], say: Say) -> Cause:
    """Interrupt each cell that goes over a limit; the cause once one does not heed that.

    :param interrupt: sends the kernel an interrupt.
    :param say: says it to the cell.
    """
    while True:
        cell, excess = await _wait_excess(cells, limits)
        words = _describe(excess, limits)
        log.warning("%s: interrupting %s", words, cell.msg_id)
        try:
            await interrupt()
        except HyperError as exc:
            log.warning("cannot interrupt the kernel: %s", exc)  # it is killed, then
        await say(f"[{words}, and was interrupted]")
        if not await _wait_heeded(cells, cell, excess, limits):
            name = Death.CELL_LIMIT if excess is Excess.TIME else Death.OUTPUT_LIMIT
            return Cause(name, f"{words}, and went on when it was interrupted")


async def _wait_excess(cells: Cells, limits: Limits) -> tuple[Cell, Excess]:
    """Wait until the cell that runs is over a limit."""
    while True:
        cell, left_s = cells.current, None
        if cell:
            if cells.over_output:
                return cell, Excess.OUTPUT
            if limits.cell_s:
                left_s = cell.began_s + limits.cell_s - time.monotonic()
                if left_s <= 0:
                    return cell, Excess.TIME
        await _wait_change(cells, left_s)


async def _wait_heeded(cells: Cells, cell: Cell, excess: Excess, limits: Limits) -> bool:
    """Wait until a cell that was interrupted has ended, or has not within its grace.

    One that was over its output may go on as long as it stays silent, or nearly so: what it shows is dropped.
    """
    while cells.current is cell:
        shown = cells.output_bytes
        ends_s = time.monotonic() + _GRACE_S
        while cells.current is cell and (left_s := ends_s - time.monotonic()) > 0:
            await _wait_change(cells, left_s)
        is_over_time = excess is Excess.TIME or (limits.cell_s and time.monotonic() > cell.began_s + limits.cell_s)
        if cells.current is cell and (is_over_time or cells.output_bytes - shown > limits.output_bytes):
            return False
    return True


async def _wait_change(cells: Cells, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await cells.wait_change()
    except TimeoutError:
        pass


def _describe(excess: Excess, limits: Limits) -> str:
    if excess is Excess.TIME:
        return f"{Death.CELL_LIMIT}: the cell ran for {limits.cell_s:g} s, as long as it may"
    return f"{Death.OUTPUT_LIMIT}: the cell has shown {limits.output_bytes / (1 << 20):.3g} MiB, as much as it may"


class Patience:
    """How often a kernel may break the rules of a channel.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._past: deque[float] = deque(maxlen=MAX_VIOLATIONS)

    def take(self, what: str) -> Cause | None:
        """Take note of one time; the cause where it was one too many.

        :param what: was done.
        """
        self._past.append(self._clock())
        # SECURITY: each one costs the host a new connection; a guest that does nothing else is ended.
        if len(self._past) == MAX_VIOLATIONS and self._past[-1] - self._past[0] < _VIOLATIONS_S:
            return named(Death.VIOLATION, f"{MAX_VIOLATIONS} times within {_VIOLATIONS_S:g} s, at last on {what[:200]}")
        return None
