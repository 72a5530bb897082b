"""hyperd's side of a shim: its control connection, its streams, and the processes it leaves when it dies."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from hyper_kernel.errors import GuestError, LostError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.link import Frames, Link
from hyper_kernel.sandbox.record import Record
from hyper_kernel.wire import Type, WireError, parse

#: How long a forked shim may take until it listens, in seconds.
DIAL_DEADLINE_S = 10.0
_PEER = "the shim"


class RefusedError(GuestError):
    """The guest does not open a stream; ``code`` is what a shell would exit with (126, 127, or 125 for the rest)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Shims(Protocol):
    """Where shims come from; see ``pool``."""

    async def start(self) -> None:
        """Get ready."""

    async def get(self, record: Record, listener: socket.socket) -> int:
        """A shim for a recorded sandbox, controlled by a bound socket; its pid."""

    async def close(self) -> None:
        """Give no more; shims that sandboxes have live on."""


def listen(path: Path) -> socket.socket:
    """The socket of a shim that is to come: who connects before it is there waits.

    :raise OSError: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        # SECURITY: whoever connects commands the sandbox; the folder is 0700.
        listener.bind(str(path))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


class Shim:
    """A control connection that is being watched.

    :param on_record: called with the record's plain data on each change.
    """

    def __init__(self, frames: Frames, on_record: Callable[[dict[str, Any]], None]) -> None:
        self._link = Link(frames, on_event=self._take, peer=_PEER)
        self._on_record = on_record
        self._heard = False

    @classmethod
    async def dial(cls, path: Path, on_record: Callable[[dict[str, Any]], None]) -> Self:
        """Connect and watch; ``on_record`` has been called with the record as it is now.

        :raise OSError: nobody listens.
        :raise LostError, GuestError: it went away or refused.
        """
        shim = cls(await Frames.dial(str(path)), on_record)
        try:
            answer = await shim.request("watch", deadline_s=DIAL_DEADLINE_S)
        except BaseException:
            await shim.close()
            raise
        # An event that came right behind the answer has been taken by now, and is newer than the answer.
        if not shim._heard:
            on_record(answer["record"])
        return shim

    async def request(self, op: str, *, deadline_s: float = 30.0, **args: Any) -> dict[str, Any]:
        """Ask for an operation, see the shim's control protocol.

        :raise GuestError, LostError: it failed, or nothing is known.
        """
        return await self._link.request(op, deadline_s=deadline_s, **args)

    async def wait_closed(self) -> None:
        """Wait until the shim or the connection is gone."""
        await self._link.wait_closed()

    async def close(self) -> None:
        """Close the connection; the shim lives on."""
        await self._link.close()

    def _take(self, event: dict[str, Any]) -> None:
        if event.get("event") == "record":
            self._heard = True
            self._on_record(event["record"])


async def open_stream(socket_path: Path, kind: str, **args: Any) -> tuple[Frames, dict[str, Any]]:
    """A stream of a sandbox: its frames, and what OPENED said.

    :raise RefusedError: it was refused; the message is the guest's.
    :raise LostError: the shim is gone.
    """
    try:
        frames = await Frames.dial(str(socket_path))
    except OSError as exc:
        raise LostError(f"{_PEER} is gone: {exc}") from exc
    try:
        await frames.send(Type.OPEN, {"kind": kind, **args})
        answer, payload = await frames.receive()
        message = parse(answer, payload)
    except (OSError, WireError, LostError) as exc:
        frames.close()
        raise LostError(f"{_PEER} went away before the {kind} stream was open: {exc}") from exc
    except BaseException:
        frames.close()
        raise
    if answer is Type.OPENED:
        return frames, message
    frames.close()
    code = message.get("code")
    raise RefusedError(str(message.get("error", "refused"))[:2000], code if isinstance(code, int) else 125)


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill_recorded(pid: int, *, recorded_s: float) -> bool:
    """Kill a process whose pid stands in a record that was written at ``recorded_s`` (epoch); whether it was there.

    Does nothing to a process that started later than that, or belongs to somebody else: it only has the same number.
    """
    if pid <= 1:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # SECURITY: checked after the descriptor is open, which names the process whatever happens to the number.
        if started_s(pid) > recorded_s + 1.0 or os.stat(f"/proc/{pid}").st_uid not in _own_uids(pid):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def started_s(pid: int) -> float:
    """When a process started, in seconds since the epoch.

    :raise ProcessLookupError: there is no such process.
    """
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_s + read_start_ticks(pid) / os.sysconf("SC_CLK_TCK")


def _own_uids(pid: int) -> set[int]:
    """The uids whose processes may be killed: our own; as root also the one that jailed QEMUs run as."""
    uids = {os.getuid()}
    if os.getuid() == 0:
        name = Path(f"/proc/{pid}/comm").read_text()
        if name.startswith(("qemu", "bwrap")):
            uids.add(os.stat(f"/proc/{pid}").st_uid)
    return uids
