"""The interrupt of this side's cell, handed on to the one in the sandbox."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_to(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call ``interrupt`` in place of raising KeyboardInterrupt while the context lasts; at a second one, that as well.

    Outside the main thread, where no signals are handled, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        interrupt()
        if count > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
