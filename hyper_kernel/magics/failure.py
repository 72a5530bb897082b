"""How a cell fails for what happened elsewhere: with what is known of that, and without this side's traceback."""

from typing import Any

from hyper_kernel.errors import HyperError
from hyper_kernel.sandbox.words import printable

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
#: What ipykernel raises where nobody may be asked.
_NO_INPUT = "StdinNotImplementedError"


class CellError(Exception):
    """Ends a cell; front ends show ``lines`` in place of a traceback."""

    def __init__(self, text: str, lines: list[str]) -> None:
        super().__init__(text)
        self.lines = lines

    def _render_traceback_(self) -> list[str]:
        """Called by IPython in place of making a traceback."""
        return self.lines


def sandbox_failure(content: dict[str, Any]) -> CellError:
    """What a cell raised in its sandbox, from the content of its error; its class has the name of that one's."""
    name, text = str(content.get("ename", "")), str(content.get("evalue", ""))
    if name == _NO_INPUT:
        return line_failure("the cell asks for input: allow that with --stdin")
    lines = [str(line) for line in content.get("traceback") or [f"{name}: {text}"]]
    # SECURITY: the guest names it; a class is made, none is found by it.
    kind = type(name, (CellError,), {}) if name.isidentifier() and len(name) < 100 else CellError
    failure: CellError = kind(text, lines)
    return failure


def own_failure(error: HyperError) -> CellError:
    """What Hyper Kernel could not do: a line, and one with what to do next."""
    text = printable(str(error))
    hint = [f"  → {error.hint}"] if error.hint else []
    return CellError(text, [f"{_RED}hyper: {text}{_PLAIN}", *hint])


def line_failure(text: str) -> CellError:
    """One line."""
    return CellError(text, [f"{_RED}hyper: {text}{_PLAIN}"])
