"""``hyper doctor``: what this machine has and lacks."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.host.doctor import collect_facts
from hyper_kernel.host.fact import Fact
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.selftest import Attempt, try_jail

SelfTest = Annotated[bool, typer.Option("--selftest", help="Try to break out of the jail that machines run in.")]


def doctor(selftest: SelfTest = False, as_json: AsJson = False) -> None:
    """Look at what sandboxes need, and say what to do where it is missing; exits with 1 then."""
    paths = find_paths()
    rows = asyncio.run(try_jail(paths)) if selftest else collect_facts(paths)
    if as_json:
        show_json([asdict(row) for row in rows])
    elif selftest:
        _show_attempts([row for row in rows if isinstance(row, Attempt)])
    else:
        _show_facts([row for row in rows if isinstance(row, Fact)])
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


def _show_facts(facts: list[Fact]) -> None:
    rows = [["yes" if fact.ok else "no", fact.name, fact.found, fact.why] for fact in facts]
    show_table(("OK", "WHAT", "FOUND", "FOR"), rows)
    for fact in facts:
        if fact.mend:
            print(f"  → {fact.name}: {fact.mend}")


def _show_attempts(attempts: list[Attempt]) -> None:
    rows = [["ok" if attempt.ok else "FAIL", attempt.what, attempt.ended] for attempt in attempts]
    show_table(("RESULT", "TRIED FROM INSIDE THE JAIL", "HOW IT ENDED"), rows)
    through = sum(not attempt.ok for attempt in attempts)
    print(f"{len(attempts)} attempts, {through or 'none'} got through")
