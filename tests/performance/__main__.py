"""``python -m tests.performance``: Hyper Python beside a local ipykernel, in one run; see ``../README.md``.

Figures are medians of rounds made in turn (local, hyper, local, ...), so that a noisy host is noisy for both; the first
round does not count. Writes ``build/bench.json`` and prints a table.
"""

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hyper_kernel.cli.template import bake_for
from hyper_kernel.daemon.system import read_tier
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.spec import DEFAULT_IMAGE
from tests.performance import crowd, kernels, machines, memory, traffic
from tests.performance.rounds import Setting
from tests.performance.table import Row, as_json, show

#: Every group of rows, in the order in which they are measured and shown.
GROUPS: dict[str, Callable[[Setting], Awaitable[list[Row]]]] = {
    "start": kernels.start,
    "on-demand": kernels.on_demand,
    "cold": kernels.cold,
    "restart": kernels.restart,
    "traffic": traffic.traffic,
    "clone": machines.clone,
    "memory": memory.memory,
    "many": crowd.many,
    "destroy": crowd.destroy,
}
_JSON = Path("build/bench.json")


def main() -> int:
    """Measure, and show; 1 where something could not be measured."""
    options = _parse()
    # What is under way is undone then. A shell leaves SIGINT ignored for what it runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="hyper-bench-folder-") as folder:
        setting = Setting(data=find_paths().data, folder=Path(folder), runs=options.runs, many=options.many)
        try:
            groups = asyncio.run(_measure(setting, options.only))
        except KeyboardInterrupt:
            return 130
    facts = _facts(setting)
    _JSON.parent.mkdir(exist_ok=True)
    _JSON.write_text(as_json(groups, facts))
    show(groups, _title(facts), f"everything, each round's values too: {_JSON}")
    return 0 if len(groups) == len(options.only) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("--runs", type=_positive, default=5, help="rounds that count (default: 5)")
    parser.add_argument(
        "--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="ROWS", help=f"of: {', '.join(GROUPS)}"
    )
    parser.add_argument("--many", type=_positive, default=100, help="sandboxes at once (default: 100)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


async def _measure(setting: Setting, only: Sequence[str]) -> dict[str, list[Row]]:
    """The groups that could be measured; of the others, standard error says why."""
    paths = find_paths()
    image = ImageStore(paths.images).get(DEFAULT_IMAGE)
    await bake_for(paths, image, DEFAULT_MEMORY_MIB, DEFAULT_CPUS, _say)
    found = {}
    for name in only:
        began_s = time.monotonic()
        try:
            found[name] = await GROUPS[name](setting)
            _say(f"{name}: measured in {time.monotonic() - began_s:.0f} s")
        except Exception:
            _say(f"{name}: could not be measured:\n{traceback.format_exc()}")
    return found


def _facts(setting: Setting) -> dict[str, Any]:
    return {
        "runs": setting.runs,
        "tier": read_tier(find_paths()).tier,
        "cpus": len(os.sched_getaffinity(0)),
        "linux": platform.release(),
        "python": platform.python_version(),
        "ended_s": time.time(),
    }


def _title(facts: dict[str, Any]) -> str:
    return (
        f"Medians of {facts['runs']} rounds. Isolation by {facts['tier']}, {facts['cpus']} processors, "
        f"Linux {facts['linux']}, Python {facts['python']}"
    )


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
