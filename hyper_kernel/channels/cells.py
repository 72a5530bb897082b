"""The cells that a kernel was asked to run and has not answered, as the host sees them.

A cell begins when it is the oldest request that is not answered, and ends with its reply or its idle status. Both are
the guest's words: one that lies about them is still held to the limits of its sandbox, which count neither.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

#: Cells that wait at a time; of more, the oldest are forgotten.
MAX_WAITING = 10_000


class Asker(Protocol):
    """The connection that a cell was asked on."""

    async def put(self, message: bytes) -> None:
        """Send a message of the shim's own between those of the kernel's."""


@dataclass(eq=False, slots=True)
class Cell:
    """One ``execute_request`` under way.

    ``header`` is its header; ``began_s`` is when it became the oldest one, in monotonic seconds, 0.0 before that;
    ``asker`` is None once its connection has closed.
    """

    msg_id: str
    header: dict[str, Any]
    asker: Asker | None
    began_s: float = 0.0


class Cells:
    """All cells of one kernel.

    :param max_output: bytes that one may show; 0: no limit.
    :param clock: monotonic seconds.
    """

    def __init__(self, max_output: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_output = max_output
        self._clock = clock
        self._waiting: dict[str, Cell] = {}
        self._changed = asyncio.Event()
        #: The header of the cell that began last: what is shown after its end is still counted to it.
        self.last_header: dict[str, Any] = {}
        #: How much was shown since it began.
        self.output_bytes = 0

    def __repr__(self) -> str:
        return f"<Cells waiting={len(self._waiting)} output={self.output_bytes}>"

    @property
    def current(self) -> Cell | None:
        """The cell that runs."""
        return next(iter(self._waiting.values()), None)

    @property
    def waiting(self) -> list[Cell]:
        """All that are not answered, the oldest first."""
        return list(self._waiting.values())

    @property
    def over_output(self) -> bool:
        """Whether more was shown since the last cell began than it may show."""
        return bool(self._max_output) and self.output_bytes > self._max_output

    async def wait_change(self) -> None:
        """Wait until a cell begins or ends, or goes over what it may show."""
        await self._changed.wait()

    def ask(self, header: dict[str, Any], asker: Asker) -> None:
        """A request goes to the kernel."""
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        msg_id = str(header.get("msg_id"))
        self._waiting[msg_id] = Cell(msg_id, header, asker)
        self._begin_next()

    def end(self, msg_id: object) -> None:
        """A cell is answered, or said to be over."""
        if isinstance(msg_id, str) and msg_id in self._waiting:
            del self._waiting[msg_id]
            self._begin_next()
            self._change()

    def leave(self, asker: Asker, *, is_heard: bool) -> None:
        """A connection has closed: replies to what it asked go nowhere.

        :param is_heard: whether somebody still hears what the kernel publishes, from which the end of a cell shows.
        """
        for cell in self.waiting:
            if cell.asker is asker:
                cell.asker = None
                if not is_heard:
                    self.end(cell.msg_id)

    def charge(self, shown: int) -> bool:
        """One connection has shown so much since the last cell began; whether that is the first too much.

        All connections are sent the same, each at its own pace: what counts is the one that is ahead.
        """
        was_over, self.output_bytes = self.over_output, max(self.output_bytes, shown)
        is_first = self.over_output and not was_over
        if is_first:
            self._change()
        return is_first

    def clear(self) -> None:
        """Forget all: the kernel is gone."""
        self._waiting.clear()
        self._change()

    def _begin_next(self) -> None:
        cell = self.current
        if cell and not cell.began_s:
            cell.began_s = self._clock()
            self.last_header, self.output_bytes = cell.header, 0
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
