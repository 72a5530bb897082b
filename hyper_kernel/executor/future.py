"""The future of a call: as ``concurrent.futures`` has it, but one that runs can be cancelled too."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When what became of a call: seconds since the epoch, 0.0 where not yet; and the name of its sandbox."""

    sandbox: str = ""
    submitted_s: float = 0.0
    #: A sandbox was asked for.
    started_s: float = 0.0
    #: It answered, and got the call.
    ready_s: float = 0.0
    #: The call has ended.
    done_s: float = 0.0


class HyperFuture(Future[Any]):
    """A call in a sandbox. :meth:`cancel` also ends one that runs, by removing its sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._kill: Callable[[], None] | None = None
        self._has_begun = False
        self.timeline = Timeline(submitted_s=time.time())

    def note(self, **times: Any) -> None:
        """Note in its timeline; called by the executor."""
        self.timeline = replace(self.timeline, **times)

    def begin(self) -> bool:
        """Called by the executor when it turns to the call; False: it was cancelled."""
        with self._lock:
            self._has_begun = True
        return not self.cancelled()

    def set_killer(self, kill: Callable[[], None] | None) -> None:
        """How to end the call from another thread; called by the executor while a sandbox has it."""
        with self._lock:
            self._kill = kill
        if kill and self.cancelled():
            kill()

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        """Called by the executor at the end."""
        # For Future it has been pending until here: that is the state in which it can be cancelled.
        if not self.set_running_or_notify_cancel():
            return
        self.note(done_s=time.time())
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)

    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._has_begun and not self.done()

    def cancel(self) -> bool:
        """Cancel the call, also when it runs; False: it has ended."""
        is_cancelled = super().cancel()
        with self._lock:
            kill = self._kill
        if is_cancelled and kill:
            with suppress(OSError):
                kill()
        return is_cancelled
