"""What every group of rows gets, and how rounds are made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: What one round found: values by name.
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured with.

    :param data: images, guest files and templates.
    :param folder: an empty one, in which kernels start.
    :param runs: rounds that count.
    :param many: sandboxes at once.
    """

    data: Path
    folder: Path
    runs: int
    many: int


class Found:
    """The values of all rounds, by who was measured and what."""

    def __init__(self) -> None:
        self._rounds: dict[str, list[Figures]] = {}

    def add(self, side: str, figures: Figures) -> None:
        """Add one round."""
        self._rounds.setdefault(side, []).append(figures)

    def names(self, side: str) -> list[str]:
        """What was found of it."""
        return list(self._rounds[side][0])

    def values(self, side: str, name: str) -> list[float]:
        """One value of each round."""
        return [figures[name] for figures in self._rounds[side]]


async def in_turn(runs: int, works: Mapping[str, Callable[[], Awaitable[Figures]]]) -> Found:
    """Do all works, then all again and so on, so that a noisy host is noisy for each; the first does not count."""
    found = Found()
    for number in range(runs + 1):
        for side, work in works.items():
            figures = await work()
            if number:
                found.add(side, figures)
    return found
