"""Lists on a terminal, in a pipe, and as JSON."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from hyper_kernel.sandbox.words import printable

#: Colours of words that say how something is, on a terminal.
_COLOURS = {
    "Up": "green",
    "Starting": "yellow",
    "Created": "cyan",
    "Exited": "dim",
    "hardware": "green",
    "software": "yellow",
    "yes": "green",
    "no": "red",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with colours on a terminal, aligned by spaces in a pipe."""
    clean = [[printable(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich(columns, clean)
        return
    widths = [max(len(row[index]) for row in (columns, *clean)) for index in range(len(columns))]
    for row in (columns, *clean):
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def runs_text(kernel: str | None) -> str:
    """What a saved or parked machine is ready for: a kernel that runs in it, or any program."""
    return "programs" if kernel is None else f"kernel {kernel}".strip()


def show_json(value: Any) -> None:
    """Print JSON."""
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


def _show_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Loaded only here: it takes longer than all the rest of `hyper ps`, and a pipe needs none of it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("ID", "NAME"))
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell.partition(" ")[0], "")) for cell in row))
    Console(highlight=False).print(table)
