"""Signals as Docker's clients write them: ``KILL``, ``SIGKILL`` or ``9``."""

import signal

from hyper_kernel.errors import RequestError


def parse_signal(text: str) -> int:
    """The number of a signal.

    :raise RequestError: there is no such signal.
    """
    name = text.strip().upper()
    if name.isdecimal() and 0 < int(name) < 65:
        return int(name)
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError as exc:
        raise RequestError(f"Invalid signal: {text}", hint="write a name such as TERM, or a number") from exc
