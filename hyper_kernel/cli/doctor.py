"""``hyper doctor``: what this machine has and lacks."""

from dataclasses import asdict

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.host.doctor import collect_facts
from hyper_kernel.paths import find_paths


def doctor(as_json: AsJson = False) -> None:
    """Look at what sandboxes need, and say what to do where it is missing; exits with 1 then."""
    facts = collect_facts(find_paths())
    if as_json:
        show_json([asdict(fact) for fact in facts])
    else:
        rows = [["yes" if fact.ok else "no", fact.name, fact.found, fact.why] for fact in facts]
        show_table(("OK", "WHAT", "FOUND", "FOR"), rows)
        for fact in facts:
            if fact.mend:
                print(f"  → {fact.name}: {fact.mend}")
    if not all(fact.ok for fact in facts):
        raise typer.Exit(1)
