"""``%hyper VERB ...``: the command line in a cell."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from hyper_kernel.cli.inline import complete_command_line, run_command_line
from hyper_kernel.errors import RequestError
from hyper_kernel.magics.failure import line_failure
from hyper_kernel.magics.options import nearest


class _Out(io.TextIOWrapper):
    """Text and bytes onto a stream of IPython's, which takes text alone.

    It says that it is a terminal: front ends show colours.
    """

    def __init__(self, out: TextIO) -> None:
        raw: Any = _Bytes(out)  # TextIOWrapper is said to need more than it does
        super().__init__(raw, encoding="utf-8", errors="replace", write_through=True)

    def isatty(self) -> bool:
        """Asked by the commands that choose between tables for people and for programs."""
        return True


class _Bytes(io.RawIOBase):
    """Bytes onto a stream of text."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def writable(self) -> bool:
        """Asked by TextIOWrapper."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # of whatever buffer there is
        """Pass on what was written."""
        self._out.write(bytes(data).decode("utf-8", "replace"))
        self._out.flush()
        return len(data)


def run_commands(words: list[str]) -> None:
    """Run ``hyper WORDS`` and show what it prints.

    :raise CellError: it exits with another code than 0.
    :raise HyperError: it fails, or there is no such command.
    """
    known = complete_command_line([], "")
    if not words[0].startswith("-") and words[0] not in known:
        raise RequestError(f"there is no command {words[0]}", hint=nearest(words[0], known) or "list them with: %hyper")
    with _outputs():
        code = run_command_line(words)
    if code:
        raise line_failure(f"{words[0]} exited with {code}")


@contextmanager
def _outputs() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Out(sys.stdout), _Out(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
