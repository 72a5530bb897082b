"""The command line from within Python, for the magic ``%hyper``: run a command, complete one."""

from typing import Any

import typer

from hyper_kernel.cli.main import app


def run_command_line(words: list[str]) -> int:
    """Run ``hyper WORDS`` in this process, on its ``sys.stdout`` and ``sys.stderr``; the exit code.

    :raise HyperError: as the command does.
    """
    try:
        app(args=words, prog_name="hyper")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


def complete_command_line(words: list[str], incomplete: str) -> list[str]:
    """What the last word may become: commands, options, sandboxes and images.

    :param words: those before it.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("hyper", [], resilient_parsing=True)
    while hasattr(command, "list_commands"):
        if not words:
            return [name for name in command.list_commands(context) if name.startswith(incomplete)]
        name, *words = words
        command = command.get_command(context, name)
        if command is None:
            return []
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    if incomplete.startswith("-"):
        options = [name for param in command.params for name in param.opts if name.startswith("--")]
        return sorted(name for name in options if name.startswith(incomplete))
    places = [param for param in command.params if param.param_type_name == "argument"]
    return [item.value for place in places[:1] for item in place.shell_complete(context, incomplete)]
