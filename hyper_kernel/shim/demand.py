"""How many clones of each shape to have parked: pure, from what was wanted lately."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hyper_kernel.host.memory import Memory
from hyper_kernel.sandbox.plan import Shape

#: A start within so many seconds makes one clone be ready; those within the shorter time, as many.
RECENT_S, BURST_S = 900.0, 60.0
#: Clones parked for recent demand, of one shape and in all.
MAX_RECENT, MAX_PARKED = 4, 8
#: Memory that parking leaves free, in bytes: this, or a tenth where that is more; on small hosts no more than half.
_SPARE_BYTES = 2 << 30


class Do(StrEnum):
    """What a pool can do next."""

    BAKE = "bake"
    PARK = "park"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, for one shape."""

    do: Do
    shape: Shape


class Demand:
    """What was started lately. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._starts: list[tuple[float, Shape]] = []

    def note(self, shape: Shape, now_s: float) -> None:
        """Something of this shape starts."""
        self._starts.append((now_s, shape))

    def targets(self, now_s: float) -> Counter[Shape]:
        """How many clones of each shape to have ready; of all shapes, those that were wanted last come first."""
        self._starts = [(at, shape) for at, shape in self._starts if now_s - at < RECENT_S]
        bursts = Counter(shape for at, shape in self._starts if now_s - at < BURST_S)
        found: Counter[Shape] = Counter()
        for shape in dict.fromkeys(shape for _, shape in reversed(self._starts)):
            wanted = min(max(bursts[shape], 1), MAX_RECENT, MAX_PARKED - found.total())
            if wanted > 0:
                found[shape] = wanted
        return found


def decide(
    targets: Mapping[Shape, int], parked: Mapping[Shape, int], baked: Iterable[Shape], memories: Iterable[Memory]
) -> Step | None:
    """The next step towards ``targets``, or None.

    :param targets: how many of each shape shall be parked.
    :param parked: how many are.
    :param baked: the shapes that have a template.
    :param memories: what the host has left: where that is little, nothing is parked, and what is parked goes.
    """
    ready, memories = set(baked), tuple(memories)
    for shape, count in parked.items():
        if count > targets.get(shape, 0):
            return Step(Do.RETIRE, shape)
    if is_tight(memories):
        return next((Step(Do.RETIRE, shape) for shape, count in parked.items() if count), None)
    for shape, count in targets.items():
        # With room for all that it may ever take: else it could be what makes memory tight, and had to go again.
        if parked.get(shape, 0) < count and not is_tight(memories, shape.memory_mib << 20):
            return Step(Do.PARK if shape in ready else Do.BAKE, shape)
    return None


def is_tight(memories: Iterable[Memory], wanted_bytes: int = 0) -> bool:
    """Whether memory is too short to hold clones that nobody uses yet, and to give them ``wanted_bytes`` more."""
    return any(
        memory.available_bytes - wanted_bytes
        < min(max(_SPARE_BYTES, memory.total_bytes // 10), memory.total_bytes // 2)
        for memory in memories
    )
