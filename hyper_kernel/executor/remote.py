"""What a call in a sandbox came to, read from what its guest says."""

from concurrent.futures import BrokenExecutor
from typing import Any

from hyper_kernel.errors import GuestError, RequestError
from hyper_kernel.sandbox.words import printable

_MAX_TEXT, _MAX_TRACEBACK = 10_000, 100_000
#: SECURITY: exceptions that a guest may have raised here. Not among them: what ends this program or an iteration.
_KNOWN: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, Exception, FileExistsError),
        *(FileNotFoundError, FloatingPointError, ImportError, IndexError, IsADirectoryError, KeyError, LookupError),
        *(MemoryError, ModuleNotFoundError, NameError, NotADirectoryError, NotImplementedError, OSError, OverflowError),
        *(PermissionError, RecursionError, ReferenceError, RuntimeError, SyntaxError, SystemError, TimeoutError),
        *(TypeError, UnboundLocalError, UnicodeError, ValueError, ZeroDivisionError),
    )
}
_RETURN = "return numbers, texts, lists, dicts, NumPy arrays or data frames"


class RemoteError(GuestError):
    """A function raised in its sandbox what is no plain exception of Python; :attr:`type_name` says what."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in a sandbox: the traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tb = text

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


class SandboxDied(BrokenExecutor):
    """The sandbox of one call has ended; others go on. The message says why."""


def read_outcome(said: Any, image: str) -> Any:
    """The result of a call.

    :param said: what its guest says, decoded.
    :raise Exception: what the function raised, with :class:`RemoteTraceback` as its cause.
    :raise RequestError: the function, or its result, cannot be carried.
    :raise GuestError: it is no outcome.
    """
    if not isinstance(said, dict) or len(said) != 1:
        raise GuestError("the sandbox does not say what became of the call")
    ((kind, value),) = said.items()
    if kind == "result":
        return value
    if kind == "raised" and isinstance(value, dict):
        raise _restore(value)
    if kind == "uncarried":
        raise RequestError(f"{_text(value)}", hint=_RETURN)
    if kind == "absent":
        name = _text(value)
        raise RequestError(
            f"the function needs the module {name}, which image {image} has not",
            hint=f"if it is yours, let it go along: modules=[{name}]; else use an image that has it",
        )
    raise GuestError("the sandbox does not say what became of the call")


def _restore(facts: dict[str, Any]) -> Exception:
    """What a guest says was raised."""
    name, message = _text(facts.get("type")), _text(facts.get("text"))
    made: Exception = RemoteError(name, message)
    kind = _KNOWN.get(name) if facts.get("is_builtin") is True else None
    if kind:
        args = facts.get("args")
        made = kind(*args) if isinstance(args, tuple) and _is_plain(args) else kind(message)
    made.__cause__ = RemoteTraceback(_text(facts.get("traceback"), _MAX_TRACEBACK))
    return made


def _is_plain(args: tuple[Any, ...]) -> bool:
    """Whether exceptions take these arguments: few, and nothing that could be large or misread."""
    return len(args) <= 5 and all(
        value is None or isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) < _MAX_TEXT)
        for value in args
    )


def _text(value: Any, most: int = _MAX_TEXT) -> str:
    # SECURITY: it is shown on terminals.
    return printable(value[:most]) if isinstance(value, str) else ""
