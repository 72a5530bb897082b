"""How much comes over one connection: since the last cell began, and in how short a time."""

import time
from collections.abc import Callable
from typing import Any

from hyper_kernel.channels.cells import Cells

#: What may come at once is what may come in this time, in seconds.
_BURST_S = 1.0


class Meter:
    """Counts what the kernel says on one connection.

    :param cells: counts begin anew with each cell.
    :param rate: bytes per second; 0: no limit.
    :param clock: monotonic seconds.
    """

    def __init__(self, cells: Cells, rate: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cells = cells
        self._rate = rate
        self._clock = clock
        self._header: dict[str, Any] = {}
        #: Bytes since the last cell began.
        self.shown = 0
        self._debt, self._looked_s = 0.0, clock()

    def add(self, count: int) -> None:
        """So much has come."""
        if self._header is not self._cells.last_header:
            self._header, self.shown = self._cells.last_header, 0
        self.shown += count
        self._debt += count

    def take(self, count: int) -> float:
        """So much has come; how long to read no more, in seconds, so that it comes no faster than it may."""
        self.add(count)
        if not self._rate:
            return 0.0
        now_s = self._clock()
        self._debt = max(0.0, self._debt - (now_s - self._looked_s) * self._rate)
        self._looked_s = now_s
        return max(0.0, self._debt / self._rate - _BURST_S)
