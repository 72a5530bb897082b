"""Where time goes, in the log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(log: logging.Logger, what: str) -> Iterator[None]:
    """Log how long something took, also when it failed: ``step WHAT: 12.3 ms``."""
    started_s = time.perf_counter()
    try:
        yield
    finally:
        log.info("step %s: %.1f ms", what, (time.perf_counter() - started_s) * 1000)
