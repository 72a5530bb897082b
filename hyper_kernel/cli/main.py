"""The table of commands, and what becomes of errors and exit codes."""

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from hyper_kernel.errors import HyperError, NotFoundError, RequestError
from hyper_kernel.sandbox.words import printable


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is defined; ``passes_on`` marks those whose last words are a command of their own."""

    module: str
    name: str
    passes_on: bool = False


_COMMANDS = {
    "setup": Place("setup", "setup"),
    "doctor": Place("doctor", "doctor"),
    "run": Place("run", "run", passes_on=True),
    "exec": Place("run", "exec_", passes_on=True),
    "ps": Place("sandboxes", "ps"),
    "logs": Place("sandboxes", "logs"),
    "inspect": Place("sandboxes", "inspect"),
    "start": Place("sandboxes", "start"),
    "stop": Place("sandboxes", "stop"),
    "kill": Place("sandboxes", "kill"),
    "wait": Place("sandboxes", "wait"),
    "rm": Place("sandboxes", "rm"),
    "cp": Place("copy", "cp"),
    "diff": Place("review", "diff"),
    "apply": Place("review", "apply"),
    "images": Place("images", "images"),
    "rmi": Place("images", "rmi"),
    "template": Place("template", "app"),
    "pool": Place("pool", "app"),
    "policy": Place("policy", "policy"),
    "events": Place("sandboxes", "events"),
    "kernelspec": Place("kernelspec", "app"),
    "daemon": Place("daemon", "app"),
    "version": Place("version", "version"),
}
_HELP = """Virtual machines for Jupyter kernels and untrusted programs, as easy as containers.

Exit codes: 0 success, 1 failure, 2 wrong usage. `hyper run` and `hyper exec` exit with the program's own code, with
128 + N where signal N ended it, 125 where Hyper Kernel itself failed, 126 where the program cannot be executed, and
127 where it is not found."""


class _Commands(TyperGroup):
    """The table above as typer knows it. A module is imported when its command is used, or for the list of all: the
    libraries behind `setup` would make `ps` slow."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Called by typer for help and completion."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Called by typer with the word after `hyper`."""
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        found = getattr(importlib.import_module(f"hyper_kernel.cli.{place.module}"), place.name)
        if isinstance(found, typer.Typer):
            group = typer.main.get_command(found)
            group.name = cmd_name
            return group
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings: dict[str, Any] = {"allow_interspersed_args": False} if place.passes_on else {}
        one.command(cmd_name, context_settings=settings)(found)
        return typer.main.get_command(one)


app = typer.Typer(
    cls=_Commands, help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def _root() -> None:
    """Makes typer see a group although its commands come later."""


def main() -> None:
    """The ``hyper`` program."""
    try:
        app(prog_name="hyper")
    except HyperError as exc:
        show_error(exc)
        sys.exit(exit_code(exc))
    except BrokenPipeError:
        # `hyper logs | head`: nobody reads on. Python would complain once more when it flushes at the end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def show_error(error: HyperError) -> None:
    """Print an error as every command does."""
    print(f"hyper: {printable(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)


def exit_code(error: HyperError) -> int:
    """The exit code of a failure: as Docker's for ``run`` and ``exec``, 1 for all else."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if words[:1] not in (["run"], ["exec"]):
        return 1
    if isinstance(error, RequestError) and not isinstance(error, NotFoundError):
        if "executable file not found" in str(error):
            return 127
        if str(error).endswith("permission denied"):
            return 126
    return 125
