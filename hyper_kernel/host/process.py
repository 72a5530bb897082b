"""Child processes that end with their parent, and the identity of processes."""

import asyncio
import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from hyper_kernel.errors import HostError

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process of ours; killed by the kernel when this process dies.

    :param argv: the command; found on PATH.
    :param stdout, stderr: file descriptors for its output; its standard input is empty.
    :param pass_fds: descriptors it inherits under the same numbers.
    :param prepare: called in the new process before the command; may change its user and limits.
    :raise HostError: it cannot be started; says what to install.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        output: int,
        pass_fds: Sequence[int] = (),
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.argv = tuple(argv)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_prepare(os.getpid(), prepare),
            )
        except FileNotFoundError as exc:
            raise HostError(f"{argv[0]} is not installed", hint="run: make setup (or hyper doctor)") from exc
        except (OSError, subprocess.SubprocessError) as exc:
            raise HostError(f"cannot start {argv[0]}: {exc}") from exc
        self.pid = self._process.pid
        self._ended = watch_exit(self.pid)

    @property
    def command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.argv)

    async def wait(self) -> int:
        """Wait for the end and reap; the exit code, or minus the signal's number."""
        await self._ended.wait()
        return self._process.wait()

    async def kill(self) -> None:
        """End it at once and reap; does nothing to one that has ended."""
        self._process.kill()
        await self.wait()


def watch_exit(pid: int) -> asyncio.Event:
    """An event that is set once the process has ended (a child then still waits to be reaped).

    :raise ProcessLookupError: there is no such process.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pidfd = os.pidfd_open(pid)

    def on_end() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        ended.set()

    loop.add_reader(pidfd, on_end)
    return ended


def read_start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: tells it from a later one with the same pid.

    Field 22 of /proc/PID/stat, see proc(5).

    :raise ProcessLookupError: there is no such process.
    """
    return int(_read_stat(pid)[19])


def read_parent(pid: int) -> int:
    """The parent of a process.

    :raise ProcessLookupError: there is no such process.
    """
    return int(_read_stat(pid)[1])


def is_alive(pid: int, start_ticks: int) -> bool:
    """Whether exactly this process lives (a zombie does not)."""
    with contextlib.suppress(ProcessLookupError, OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and read_start_ticks(pid) == start_ticks
    return False


def _read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, see proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as exc:
        raise ProcessLookupError(f"no process {pid}") from exc


def _prepare(parent: int, prepare: Callable[[], None]) -> Callable[[], None]:
    def in_child() -> None:
        prepare()
        # Last: a change of the user takes it back, see prctl(2).
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call above
            os._exit(1)

    return in_child
