"""Where a shim's process writes what it does."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from hyper_kernel.limits import MAX_CONSOLE


def log_to(folder: Path) -> None:
    """Have this process log to ``shim.log`` of a folder from here on."""
    words = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    # SECURITY: a guest can have something logged again and again; the host's disk holds this and as much before it.
    file = RotatingFileHandler(folder / "shim.log", maxBytes=MAX_CONSOLE, backupCount=1)
    logging.basicConfig(handlers=[file], level=logging.INFO, format=words, force=True)
