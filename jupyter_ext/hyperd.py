"""hyperd, as the server's loop sees it: every call blocks, so it is made in a thread."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import ParamSpec, TypeVar

from hyper_kernel import __version__
from hyper_kernel.client import Client
from hyper_kernel.client.start import find_version
from hyper_kernel.errors import BusyError, ConflictError, HyperError
from hyper_kernel.paths import Paths, find_paths

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Calls that may wait for hyperd at a time; those after them wait for their turn.
_MAX_CALLS = 32


class Presence(StrEnum):
    """Whether hyperd is there."""

    RUNNING = "running"
    #: It is started by whoever needs it; to read is no need.
    STOPPED = "stopped"
    OTHER_VERSION = "other version"
    #: It listens but does not answer.
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found when looking for hyperd; ``version`` is empty where none answers."""

    presence: Presence
    version: str = ""


class Hyperd:
    """Calls to hyperd.

    ``reader`` never starts it; ``doer`` does, and replaces one of another version.
    """

    def __init__(self, paths: Paths | None = None) -> None:
        self.paths = paths or find_paths()
        self.reader = Client(self.paths, start=False)
        self.doer = Client(self.paths)
        self._turn: asyncio.Semaphore | None = None

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call one of the clients' methods.

        :raise HyperError: as the method does.
        """
        self._turn = self._turn or asyncio.Semaphore(_MAX_CALLS)
        async with self._turn:
            return await in_thread(function, *args, **kwargs)

    async def find(self) -> Found:
        """Look whether hyperd is there."""
        if not self.paths.socket.exists():
            return Found(Presence.STOPPED)
        try:
            version = await self.call(find_version, self.paths)
        except (HyperError, OSError, ValueError, KeyError):
            return Found(Presence.UNREACHABLE)
        if version is None:
            return Found(Presence.STOPPED)
        return Found(Presence.RUNNING if version == __version__ else Presence.OTHER_VERSION, version)

    async def is_running(self) -> bool:
        """Whether there is one to read from.

        :raise ConflictError: one of another version is there, whose answers could be misread.
        :raise BusyError: it does not answer.
        """
        found = await self.find()
        if found.presence is Presence.OTHER_VERSION:
            raise ConflictError(
                f"hyperd is version {found.version}, the Jupyter server's Hyper Kernel is {__version__}",
                hint="start the Jupyter server again; what starts a sandbox replaces hyperd",
            )
        if found.presence is Presence.UNREACHABLE:
            raise BusyError("hyperd does not answer", hint="see: hyper daemon logs")
        return found.presence is Presence.RUNNING


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call something that blocks in a thread of its own, which keeps no process from ending."""
    done: Future[_T] = Future()
    done.set_running_or_notify_cancel()

    def work() -> None:
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001 - raised in whoever waits for it
            done.set_exception(exc)

    threading.Thread(target=work, name="call to hyperd", daemon=True).start()
    return await asyncio.wrap_future(done)
