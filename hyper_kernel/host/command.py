"""Commands that run to their end: their output, or one error that says which command failed and how."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hyper_kernel.errors import HostError

#: Lines of a failed command's output that its error carries.
_TAIL = 12
#: How long an interrupted command may take to clean up, in seconds.
_GRACE_S = 10.0


class CommandError(HostError):
    """A command ended with a failure.

    :param argv: the command.
    :param code: its exit code, minus a signal's number.
    :param tail: the last lines it wrote to standard error.
    """

    def __init__(self, argv: Sequence[str], code: int, tail: str, *, hint: str = "") -> None:
        super().__init__(f"{shlex.join(argv)}\nended with {code}:\n{tail or '(it said nothing)'}", hint=hint)
        self.code = code
        self.tail = tail


def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a command to its end, with an empty standard input; return what it wrote to standard output.

    :param argv: the command; found on PATH.
    :param env: added to this process's environment.
    :param cwd: where it runs; this process's folder where None.
    :param hint: what to do when it fails, for the error.
    :param on_line: called with each line of its standard error, as it comes.
    :raise CommandError: it failed; carries the command and the tail of its standard error.
    :raise HostError: it is not installed.
    """
    tail: deque[str] = deque(maxlen=_TAIL)
    with tempfile.TemporaryFile() as output:
        process = _start(argv, output.fileno(), {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, cwd)
        with process:
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    tail.append(line.rstrip())
                    if on_line:
                        on_line(line.rstrip())
            except BaseException:  # an interrupt: the command must not outlive us
                _end(process)
                raise
        if process.returncode:
            raise CommandError(argv, process.returncode, "\n".join(tail), hint=hint)
        output.seek(0)
        return output.read().decode(errors="replace")


def _start(argv: Sequence[str], output: int, env: Mapping[str, str], cwd: Path | None) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, which can be ended as one
        )
    except FileNotFoundError as exc:
        raise HostError(f"{argv[0]} is not installed", hint="run make, which installs what is missing") from exc
    except OSError as exc:
        raise HostError(f"cannot start {argv[0]}: {exc}") from exc


def _end(process: "subprocess.Popen[str]") -> None:
    """End a command and all it started; give it the time to clean up behind it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
