"""One sandbox that takes calls, one at a time."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from hyper_kernel.client import Client
from hyper_kernel.errors import RequestError
from hyper_kernel.executor.remote import SandboxDied, read_outcome
from hyper_kernel.sandbox.words import printable
from hyper_kernel.session import EndedError, Session
from hyper_kernel.session.carry import MODULES, call, read_value
from hyper_kernel.spec import SandboxSpec

_INSIDE = "hyper_kernel.executor.inside"
_CLOUDPICKLE = ("cloudpickle.cloudpickle", "cloudpickle")


class Worker:
    """A sandbox with a kernel, in which functions are called. For one thread at a time, except :meth:`kill`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.is_usable = True

    @classmethod
    def start(cls, client: Client, spec: SandboxSpec) -> Self:
        """Start a sandbox.

        :raise HyperError: it does not start.
        """
        return cls(Session.start(client, spec))

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return self._session.name

    def call(self, payload: bytes, timeout_s: float | None, function: str = "call") -> Any:
        """Call a pickled function with its arguments; its result.

        :param function: what of ``inside`` takes the pickle.
        :raise TimeoutError: it takes longer; the sandbox is of no more use.
        :raise SandboxDied: the sandbox ended.
        :raise Exception: what the function raised; see :func:`read_outcome`.
        """
        session = self._session
        modules = [*MODULES, _INSIDE]
        if b"cloudpickle" in payload:  # by value: functions and classes of the notebook, of which it has the code
            self._check_version()
            modules += _CLOUDPICKLE
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            data = call(
                session, f"{_INSIDE}.{function}", payload, modules=modules, shows=self._show, deadline_s=deadline_s
            )
        except EndedError as exc:
            self.is_usable = False
            raise SandboxDied(str(exc)) from exc
        except TimeoutError as exc:
            self.is_usable = False
            raise TimeoutError(f"the call took longer than {timeout_s:g} s; its sandbox was removed") from exc
        return read_outcome(read_value(session, data), session.spec.image)

    def kill(self) -> None:
        """Remove the sandbox; what runs in it ends with SandboxDied. May be called from another thread."""
        self.is_usable = False
        self._session.kill()

    def close(self) -> None:
        """Remove the sandbox."""
        self.is_usable = False
        self._session.close()

    def _show(self, kind: str, content: dict[str, Any]) -> None:
        """What a function prints appears here."""
        if kind == "stream" and self.is_usable:
            out = sys.stderr if content.get("name") == "stderr" else sys.stdout
            out.write(printable(str(content.get("text", ""))))

    def _check_version(self) -> None:
        theirs, ours = self._session.python, sys.version_info[:2]
        if theirs != ours:
            raise RequestError(
                f"image {self._session.spec.image} has Python {_version(theirs)}, and this is {_version(ours)}: "
                "functions go as bytecode, which both must understand",
                hint="use the same version on both sides, or functions of modules that the image has",
            )


def _version(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))
