"""Commands about the pool: clones that wait, started and warm, for sandboxes to come."""

import sys
from typing import Annotated, Any

import typer

from hyper_kernel.cli.arguments import AsJson, argument, complete_image
from hyper_kernel.cli.tables import runs_text, show_json, show_table
from hyper_kernel.client import Client
from hyper_kernel.limits import parse_bytes
from hyper_kernel.sandbox.words import printable
from hyper_kernel.spec import DEFAULT_IMAGE

app = typer.Typer(
    help="Clones that wait, started and warm, for sandboxes to come; hyperd parks some by itself after each start.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls")
def list_clones(as_json: AsJson = False) -> None:
    """List clones that are parked, aimed at, or asked for."""
    _show(Client().pool(), as_json=as_json)


@app.command()
def keep(
    count: Annotated[int, typer.Argument(help="How many; 0 leaves it to hyperd again.", show_default=False)],
    image: Annotated[str, argument(complete_image, "The image they have.")] = DEFAULT_IMAGE,
    memory: Annotated[
        str, typer.Option("--memory", "-m", help="Their memory, like 512m; else what policy gives.", show_default=False)
    ] = "0",
    cpus: Annotated[
        int, typer.Option("--cpus", help="Their processors; else what policy gives.", show_default=False)
    ] = 0,
    programs: Annotated[bool, typer.Option("--programs", help="For programs, not with the image's kernel.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep clones of an image ready, as long as hyperd runs, and whenever it runs again."""
    size = parse_bytes(memory) >> 20
    _show(Client().keep_parked(count, image, memory_mib=size, cpus=cpus, programs=programs), as_json=as_json)


def _show(pool: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(pool)
        return
    show_table(("IMAGE", "MACHINE", "CPUS", "RUNS", "PARKED", "TARGET", "KEPT"), [_row(each) for each in pool])
    for each in pool:
        doing = each["doing"] and f"baking its template: {each['doing']}"
        if words := each["problem"] or doing:
            print(f"{each['image']}, {runs_text(each['kernel'])}: {printable(words)}", file=sys.stderr)


def _row(each: dict[str, Any]) -> list[str]:
    return [
        each["image"].removeprefix("sha256:")[:12] if each["image"] == each["image_id"] else each["image"],
        f"{each['memory_mib']} MiB",
        str(each["cpus"]),
        runs_text(each["kernel"]),
        f"{each['parked']} ({each['warming']} on the way)" if each["warming"] else str(each["parked"]),
        str(each["target"]),
        str(each["kept"]),
    ]
