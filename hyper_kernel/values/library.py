"""What all formats need: their error, and libraries that may be missing."""

import importlib
from typing import Any

#: What can be carried, for messages.
USE = "use None, numbers, texts, bytes, lists, tuples, sets, dicts, dates, NumPy arrays, data frames or Arrow tables"


class CarryError(Exception):
    """A value cannot be carried; the message names it, says why, and what to do."""


def load_library(name: str) -> Any:
    """A library that need not be there.

    :raise CarryError: it is not.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise CarryError(f"a value needs {name.partition('.')[0]}, which is not installed where it goes") from exc
