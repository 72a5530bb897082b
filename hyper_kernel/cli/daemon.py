"""Commands about hyperd, which starts by itself when it is needed."""

from datetime import datetime
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json
from hyper_kernel.client import Client, ensure_daemon, stop_daemon
from hyper_kernel.client.start import find_version
from hyper_kernel.errors import NotFoundError
from hyper_kernel.paths import find_paths

app = typer.Typer(
    help="hyperd, the process behind all commands; it starts by itself.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def socket() -> None:
    """Print hyperd's address for Docker's tools: export DOCKER_HOST=$(hyper daemon socket)"""
    print(f"unix://{find_paths().socket}")


@app.command()
def start() -> None:
    """Start hyperd, where it does not run."""
    paths = find_paths()
    ensure_daemon(paths)
    print(f"unix://{paths.socket}")


@app.command()
def stop() -> None:
    """Stop hyperd; sandboxes live on."""
    print("stopped" if stop_daemon(find_paths()) else "hyperd was not running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say whether hyperd runs, and what it knows; exits with 1 where it does not run."""
    if find_version(find_paths()) is None:
        print("{}" if as_json else "hyperd is not running; it starts when it is needed")
        raise typer.Exit(1)
    facts = Client(start=False).status()
    if as_json:
        show_json(facts)
        return
    since = datetime.fromtimestamp(facts["started_s"]).strftime("%Y-%m-%d %H:%M:%S")
    print(f"hyperd {facts['version']}, process {facts['pid']}, since {since}")
    print(f"socket     {facts['socket']}")
    print(f"sandboxes  {facts['sandboxes']}, of which {facts['alive']} live")
    print(f"parked     {facts['parked']} clones, see: hyper pool ls")
    print(f"isolation  {facts['tier']}: {facts['tier_reason']}")


@app.command()
def logs(lines: Annotated[int, typer.Option("--tail", "-n", help="How many lines.")] = 50) -> None:
    """Print the end of hyperd's log."""
    path = find_paths().state / "hyperd.log"
    if not path.exists():
        raise NotFoundError(f"there is no log at {path}", hint="hyperd writes it when it starts")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        for line in file.read().decode(errors="replace").splitlines()[-lines:]:
            print(line)
