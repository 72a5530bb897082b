"""Runs in a sandbox's kernel: calls functions that the host sends, and says how that went."""

import pickle
import traceback
from typing import Any

from hyper_kernel.session.inside import incoming, set_outgoing
from hyper_kernel.values.formats import encode
from hyper_kernel.values.library import CarryError


def call() -> None:
    """Call the function that comes in with its arguments; its result or what it raised goes out."""
    try:
        # Pickles go this way alone: what the host sends is code anyway, and runs in here.
        function, args, kwargs = pickle.loads(incoming())
    except ImportError as exc:
        set_outgoing(encode({"absent": exc.name or str(exc)}))
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as exc:  # noqa: BLE001 - it is raised on the host
        set_outgoing(_describe(exc))
        return
    try:
        set_outgoing(encode({"result": result}, ""))
    except CarryError as exc:
        set_outgoing(encode({"uncarried": str(exc)}))


def _describe(exc: BaseException) -> bytes:
    lines = traceback.format_exception(exc)
    facts: dict[str, Any] = {
        "type": type(exc).__name__,
        "is_builtin": type(exc).__module__ == "builtins",
        "text": str(exc),
        "traceback": "".join(lines),
    }
    try:
        return encode({"raised": {**facts, "args": exc.args}})
    except CarryError:
        return encode({"raised": facts})
