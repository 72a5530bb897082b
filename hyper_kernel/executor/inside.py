"""Runs in a sandbox's kernel: calls functions that the host sends, and says how that went."""

import pickle
import traceback
from collections.abc import Callable
from typing import Any

from hyper_kernel.session.inside import incoming, set_outgoing
from hyper_kernel.values.formats import encode
from hyper_kernel.values.library import CarryError

#: Global variables that the initializer has set.
_kept: dict[str, Any] = {}


def call() -> None:
    """Call the function that comes in with its arguments; its result or what it raised goes out.

    Each pickle has globals of its own. The initializer comes along for its globals: they are those of a function of the
    same module, and get what it has set.
    """

    def load() -> Any:
        function, args, kwargs, initializer = pickle.loads(incoming())
        getattr(initializer, "__globals__", {}).update(_kept)
        return lambda: function(*args, **kwargs)

    _answer(load)


def initialize() -> None:
    """Call the initializer that comes in with its arguments; what it raised goes out."""

    def load() -> Any:
        initializer, args = pickle.loads(incoming())

        def run() -> None:
            known = getattr(initializer, "__globals__", {})
            before = dict(known)
            initializer(*args)
            _kept.update({name: value for name, value in known.items() if before.get(name, _kept) is not value})

        return run

    _answer(load)


def _answer(load: Callable[[], Any]) -> None:
    """Load a call and make it; say what became of it.

    Pickles go this way alone: what the host sends is code anyway, and runs in here.
    """
    try:
        run = load()
    except ImportError as exc:
        set_outgoing(encode({"absent": exc.name or str(exc)}))
        return
    try:
        result = run()
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
