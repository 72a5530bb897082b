"""Commands that look at sandboxes and end them."""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import Any_, AnyMany, AsJson, LiveMany
from hyper_kernel.cli.crowd import call_all
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.client import Client
from hyper_kernel.errors import HyperError
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.words import duration_text, printable, status_text


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have exited too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    as_json: AsJson = False,
) -> None:
    """List sandboxes."""
    records = Client().sandboxes(everything=everything, liveness=not quiet)
    if as_json:
        show_json([record.as_dict() for record in records])
    elif quiet:
        for record in records:
            print(record.id[:12])
    else:
        show_table(("ID", "NAME", "IMAGE", "RUNS", "STATUS", "MEMORY", "ISOLATION"), [_row(each) for each in records])


def _row(record: Record) -> list[str]:
    spec = record.spec
    command = " ".join(spec.process.argv)
    what = f"kernel {spec.kernel.name}".strip() if spec.kernel else command or "(the image's command)"
    what = what if len(what) <= 30 else f"{what[:29]}…"
    return [
        record.id[:12],
        record.name,
        spec.image,
        what,
        status_text(record),
        f"{spec.memory_mib} MiB",
        record.tier or "-",
    ]


def logs(
    sandbox: Any_,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[str, typer.Option("--tail", "-n", help="Only the last lines, or all.")] = "all",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Say when.")] = False,
    since: Annotated[str, typer.Option(help="From this time on: 2026-01-31T12:00:00Z, or seconds since 1970.")] = "",
) -> None:
    """Print what a sandbox's program has written."""
    try:
        for number, data in Client().logs(sandbox, follow=follow, tail=tail, timestamps=timestamps, since=since):
            out = sys.stdout if number == 1 else sys.stderr
            out.buffer.write(data)
            out.buffer.flush()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def inspect(sandboxes: AnyMany) -> None:
    """Print all that is known of sandboxes or images, as JSON."""
    client = Client()
    show_json([_inspect(client, ref) for ref in sandboxes])


def _inspect(client: Client, ref: str) -> object:
    """A sandbox, or an image of that name."""
    try:
        return client.inspect(ref)
    except HyperError as exc:
        try:
            return client.image(ref)
        except HyperError:
            raise exc from None


def start(sandboxes: AnyMany) -> None:
    """Start sandboxes that have exited; see `hyper run` for new ones."""
    client = Client()
    _each(sandboxes, client.start)


def stop(
    sandboxes: LiveMany,
    time: Annotated[float, typer.Option("--time", "-t", help="Seconds until it is killed.")] = 10.0,
) -> None:
    """Stop sandboxes: SIGTERM to the program, then power off."""
    client = Client()
    _each(sandboxes, lambda ref: client.stop(ref, time))


def kill(
    sandboxes: LiveMany,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Which signal; KILL ends the machine.")] = "KILL",
) -> None:
    """Send a signal to the program of sandboxes."""
    client = Client()
    _each(sandboxes, lambda ref: client.kill(ref, signal))


def wait(sandboxes: AnyMany) -> None:
    """Wait until sandboxes have exited; print their exit codes."""
    client = Client()
    for ref in sandboxes:
        print(client.wait(ref))


def rm(
    sandboxes: AnyMany,
    force: Annotated[bool, typer.Option("--force", "-f", help="Kill those that run.")] = False,
) -> None:
    """Remove sandboxes and all that belongs to them."""
    client = Client()
    _each(sandboxes, lambda ref: client.remove(ref, force=force))


def events(as_json: AsJson = False) -> None:
    """Print what happens to sandboxes, as it happens."""
    try:
        for event in Client().events():
            if as_json:
                show_json(event)
                continue
            actor = event["Actor"]
            when = datetime.fromtimestamp(event["timeNano"] / 1e9).strftime("%H:%M:%S.%f")[:-3]
            name = actor["Attributes"].get("name", "")
            details = [actor["Attributes"][key] for key in ("exitCode", "death") if actor["Attributes"].get(key)]
            text = f"{when}  {actor['ID'][:12]}  {name}  {event['Action']}" + f" ({', '.join(details)})" * bool(details)
            print(printable(text), flush=True)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _each(refs: list[str], act: Callable[[str], object]) -> None:
    """Act on all side by side, print those that worked, in their order, and fail at the end if any failed.

    :raise HyperError: the last failure; earlier ones are printed.
    """
    failed: HyperError | None = None
    for ref, call in zip(refs, call_all(act, refs), strict=True):
        try:
            call.result()
        except HyperError as exc:
            if failed:
                print(f"hyper: {failed}", file=sys.stderr)
            failed = exc
        else:
            print(ref)
    if failed:
        raise failed


def age_text(epoch_s: float) -> str:
    """How long ago, for a column."""
    return f"{duration_text(datetime.now().timestamp() - epoch_s)} ago" if epoch_s else "-"
