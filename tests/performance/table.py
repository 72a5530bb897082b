"""What was measured, as rows: medians, aims, and the table that people read."""

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

#: Of a table that goes to a file, in characters.
_WIDTH = 150


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure shall not be over: so many times the local one, or so much."""

    most: float
    is_ratio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: the values of all rounds on either side.

    :param what: what was measured; a detail of the row above where ``is_detail``.
    :param local: of a local ipykernel; empty where it has no such thing.
    """

    what: str
    unit: str
    hyper: Sequence[float]
    local: Sequence[float] = ()
    aim: Aim | None = None
    is_detail: bool = False

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if not (self.hyper and self.local):
            return None
        return statistics.median(self.hyper) / statistics.median(self.local)

    @property
    def limit(self) -> float | None:
        """The aim in this row's unit."""
        if self.aim is None:
            return None
        return self.aim.most * (statistics.median(self.local) if self.aim.is_ratio else 1.0)

    @property
    def verdict(self) -> str:
        """Whether the aim is met, or by how much it is missed."""
        if self.limit is None:
            return ""
        over = statistics.median(self.hyper) - self.limit
        return "met" if over <= 0 else f"missed by {over / self.limit * 100:.0f} % ({number(over)} {self.unit})"

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        medians = {side: statistics.median(values) for side in ("local", "hyper") if (values := getattr(self, side))}
        facts = {"medians": medians, "ratio": self.ratio, "limit": self.limit, "verdict": self.verdict}
        return asdict(self) | facts


def number(value: float) -> str:
    """Three digits that count, and no powers of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(groups: dict[str, list[Row]], title: str, caption: str) -> None:
    """Print the table."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    table.add_column("what", min_width=40)
    for column in ("local ipykernel", "Hyper Python", "ratio", "aim"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("result")
    for rows in groups.values():
        for row in rows:
            table.add_row(*_cells(row), style="dim" if row.is_detail else "", end_section=row is rows[-1])
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def as_json(groups: dict[str, list[Row]], facts: dict[str, Any]) -> str:
    """Everything, for machines."""
    rows = {name: [row.as_dict() for row in group] for name, group in groups.items()}
    return json.dumps({**facts, "groups": rows}, indent=2) + "\n"


def _cells(row: Row) -> Iterable[str]:
    yield f"  {row.what}" if row.is_detail else row.what
    for values in (row.local, row.hyper):
        yield f"{number(statistics.median(values))} {row.unit}" if values else ""
    yield f"{row.ratio:.2f} ×" if row.ratio is not None and not row.is_detail else ""
    yield _aim_text(row)
    yield row.verdict


def _aim_text(row: Row) -> str:
    if row.aim is None:
        return ""
    return f"≤ {row.aim.most:g} ×" if row.aim.is_ratio else f"≤ {number(row.aim.most)} {row.unit}"
