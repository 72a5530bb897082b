"""``hyper policy``: what sandboxes and users may have, and by which file."""

import sys
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Any

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.client import Client
from hyper_kernel.paths import find_paths
from hyper_kernel.sandbox.words import printable


def policy(
    as_json: AsJson = False,
    example: Annotated[bool, typer.Option("--example", help="Print a policy file that explains every key.")] = False,
) -> None:
    """Show the limits that hold: what a sandbox gets that asks for nothing, and the most that one may ask for.

    They stand in /etc/hyper-kernel/policy.toml, else in the file that this command names; make one with --example.
    Exits with 1 where the file has a mistake, and nothing is started.
    """
    if example:
        print((resources.files("hyper_kernel.policy") / "example.toml").read_text(), end="")
        return
    facts = Client().policy()
    if as_json:
        show_json(facts)
    else:
        print(f"policy: {facts['file'] or f'the default; change it in {find_paths().policy}'}")
        show_table(("KEY", "DEFAULT", "CAP", "USED"), list(_rows(facts)))
        if facts["ignored"]:
            print(f"{facts['ignored']} is ignored: the administrator's file counts", file=sys.stderr)
    if facts["problem"]:
        print(f"hyper: {printable(facts['problem'])}\n  → mend it; until then nothing is started", file=sys.stderr)
        raise typer.Exit(1)


def _rows(facts: dict[str, Any]) -> Iterator[list[str]]:
    for name, row in facts["sandbox"].items():
        default = "half of memory" if name == "scratch_mib" and row["default"] is None else _text(row["default"])
        yield [f"sandbox.{name}", default, _text(row["cap"]), ""]
    for name, row in facts["user"].items():
        yield [f"user.{name}", "", _text(row["cap"]), _text(row["used"])]
    yield ["output.trusted", "sanitize", "trusted" if facts["output"]["trusted"] else "sanitize", ""]
    yield ["isolation.tier", "", f"at least {facts['isolation']['tier']}", ""]
    yield ["files.modes", "", ", ".join(facts["files"]["modes"]), ""]


def _text(value: float | None) -> str:
    return "unlimited" if value is None else f"{value:.12g}"
