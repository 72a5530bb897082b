"""What the user's sandboxes took of the processors today, kept on disk so that it outlives hyperd."""

import json
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from hyper_kernel.host.usage import read_tree_cpu_s
from hyper_kernel.sandbox.record import Record

log = logging.getLogger(__name__)


class Ledger:
    """Adds up processor time from midnight on.

    Of each sandbox that lives it knows how much is counted already, so that none is lost or counted twice when
    hyperd, a shim or the day ends.

    :param path: where it is kept.
    :param today: the day, as text.
    :param read: processor time in seconds that a shim and all it started have taken so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        today: Callable[[], str] = lambda: date.today().isoformat(),
        read: Callable[[int], float] = read_tree_cpu_s,
    ) -> None:
        self._path = path
        self._today = today
        self._read = read
        self._day, self._used_s = today(), 0.0
        self._counted: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or damaged
            self._take(json.loads(path.read_text()))

    def begin(self, ident: str) -> None:
        """A sandbox is about to get a machine."""
        self._counted[ident] = 0.0
        self._save()

    def measure(self, live: Iterable[Record]) -> float:
        """What all sandboxes took today until now, in seconds."""
        before = self._day, self._used_s
        for record in live:
            self._count(record.id, self._read(record.shim_pid))
        self._turn_day()
        if (self._day, self._used_s) != before:
            self._save()
        return self._used_s

    def settle(self, ident: str, cpu_s: float) -> None:
        """A sandbox has ended.

        :param cpu_s: all it took, as its shim says; 0.0 where that could not say it.
        """
        if ident in self._counted:
            # SECURITY: the shim reads what the guest sends; what it says can only add, and no nonsense.
            self._count(ident, cpu_s if math.isfinite(cpu_s) else 0.0)
            del self._counted[ident]
            self._save()

    def _count(self, ident: str, cpu_s: float) -> None:
        self._turn_day()
        before = self._counted.get(ident, 0.0)
        if cpu_s > before:
            self._counted[ident] = cpu_s
            self._used_s += cpu_s - before

    def _turn_day(self) -> None:
        if (today := self._today()) != self._day:
            self._day, self._used_s = today, 0.0

    def _take(self, data: dict[str, Any]) -> None:
        counted = {str(ident): float(cpu_s) for ident, cpu_s in data["counted"].items()}
        day, used_s = str(data["day"]), float(data["used_s"])
        self._counted, self._day, self._used_s = counted, day, used_s

    def _save(self) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps({"day": self._day, "used_s": self._used_s, "counted": self._counted}))
            partial.replace(self._path)
        except OSError as exc:
            log.error("cannot save %s, processor time may be counted again from less: %s", self._path, exc)
