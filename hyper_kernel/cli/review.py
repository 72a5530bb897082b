"""``hyper diff`` and ``hyper apply``: what a sandbox changed, looked at and taken over."""

import difflib
import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from hyper_kernel.cli.arguments import Any_, AsJson
from hyper_kernel.cli.tables import show_json
from hyper_kernel.client import Client
from hyper_kernel.errors import RequestError
from hyper_kernel.sandbox.words import printable, size_text

#: Docker's letters.
_LETTERS = {"added": "A", "changed": "C", "deleted": "D"}
_DOCKER_LETTERS = "CAD"
_Paths = Annotated[
    list[str] | None, typer.Argument(help="Files or folders, as hyper diff names them.", show_default=False)
]


def diff(
    sandbox: Any_,
    paths: _Paths = None,
    patch: Annotated[bool, typer.Option("--patch", "-p", help="Show the lines that differ, of all files.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what a sandbox changed in its copy of a folder: A added, C changed, D deleted; with PATHS, show the lines.

    A "!" marks what was changed on this machine, too. What is shown is what `hyper apply` takes over, until the next
    look. Of a sandbox without a folder, what differs from its image is listed.
    """
    client = Client()
    record = client.sandbox(sandbox)
    if record.spec.kernel is None:
        _list_layer(client, sandbox, wants_lines=bool(paths) or patch)
        return
    review = client.review(sandbox)
    changes = [change for change in review["changes"] if not paths or is_below(change["path"], paths)]
    if as_json:
        show_json(changes)
        return
    for name in paths or []:
        if not any(is_below(change["path"], [name]) for change in changes):
            raise RequestError(f"{record.name} did not change {name}", hint=f"see: hyper diff {record.name}")
    for change in changes:
        if paths or patch:
            _show_lines(client, sandbox, change)
        else:
            print(list_line(change))
    for note in review["notes"]:
        print(f"hyper: {note}", file=sys.stderr)


def apply(
    sandbox: Any_,
    paths: _Paths = None,
    everything: Annotated[bool, typer.Option("--all", help="All changes, but for hidden files.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also over changes made on this machine.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be done.")] = False,
) -> None:
    """Take over what a sandbox changed, as it was last looked at: into the folder of this machine.

    Hidden files, and what tools make again, have to be named. Exits with 1 where something asked for was refused.
    """
    if not paths and not everything:
        raise RequestError("nothing says what to apply", hint="name files, or use --all")
    client = Client()
    review = client.review(sandbox, last=True)
    by_path = {change["path"]: change for change in review["changes"]}
    done = client.apply(sandbox, paths or [], everything=everything, force=force, dry_run=dry_run)
    for path in done["applied"]:
        print(f"{_LETTERS[by_path[path]['kind']]} {by_path[path]['shown']}" if path in by_path else printable(path))
    for refused in done["refused"]:
        shown = by_path.get(refused["path"], {}).get("shown", printable(refused["path"]))
        print(f"hyper: not applied: {shown}: {refused['reason']}", file=sys.stderr)
    when = datetime.fromtimestamp(done["taken_s"]).strftime("%H:%M:%S")
    print(f"hyper: {_sum_words(done, dry_run)}, as it was at {when} (look again: hyper diff)", file=sys.stderr)
    raise typer.Exit(int(any(not refused["hidden"] or refused["path"] in (paths or []) for refused in done["refused"])))


def is_below(path: str, names: list[str]) -> bool:
    """Whether a path is one of these, or below it."""
    return any(f"{path}/".startswith(f"{name.strip('/')}/") for name in names)


def list_line(change: dict[str, Any]) -> str:
    """A change as one line: letter, mark, path, and what is to be said of it."""
    mark = "!" if change["conflict"] else " "
    name = change["shown"] + "/" * change["is_folder"]
    return f"{_LETTERS[change['kind']]}{mark}{name}" + f"  ({printable(change['reason'])})" * bool(change["reason"])


def make_patch(path: str, before: str, after: str) -> str:
    """A unified diff of two texts, as git writes it; empty where they are equal."""
    names = (f"a/{path}" if before else "/dev/null", f"b/{path}" if after else "/dev/null")
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names)
    whole = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + whole for line in lines)


def _show_lines(client: Client, sandbox: str, change: dict[str, Any]) -> None:
    if change["is_folder"] or not change["can_apply"]:
        print(list_line(change))
        return
    sides = client.change(sandbox, change["path"])
    if sides["conflict"] or sides["hidden"]:
        print(f"hyper: {change['shown']}: {sides['reason']}", file=sys.stderr)
    before, after = sides["before"], sides["after"]
    texts = [side["text"] if side else "" for side in (before, after)]
    if None in texts:
        print(f"Binary files differ: {change['shown']}: {_side_words(before)} → {_side_words(after)}")
        return
    text = make_patch(change["shown"], *texts)
    # For a person, without what acts on a terminal; for a program, every byte.
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def _side_words(side: dict[str, Any] | None) -> str:
    return f"{size_text(side['size'])} sha256:{side['digest'][:12]}" if side else "nothing"


def _list_layer(client: Client, sandbox: str, *, wants_lines: bool) -> None:
    if wants_lines:
        raise RequestError(f"{sandbox} has no folder of this machine to compare with", hint="copy with: hyper cp")
    for change in client.layer_changes(sandbox):
        print(f"{_DOCKER_LETTERS[change['Kind']]} {printable(change['Path'])}")


def _sum_words(done: dict[str, Any], dry_run: bool) -> str:
    words = "would be applied" if dry_run else "applied"
    return f"{len(done['applied'])} {words}, {len(done['refused'])} not"
