"""``python -m tests.performance.bench``: Hyper Python beside a local ipykernel, in one run.

Every figure is the median of the runs, taken in turn (local, hyper, local, ...) so that a noisy host is noisy for both.
Writes ``build/bench.json`` and prints a table.
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from jupyter_client import AsyncKernelManager
from rich.console import Console
from rich.table import Table

from hyper_kernel.client import Client
from hyper_kernel.host.usage import read_pss

LOCAL, HYPER = "python3", "hyper-python"
OUTPUT_MB = 10
TIMEOUT_S = 300


@asynccontextmanager
async def kernel(name: str):
    """A started kernel and its ready client; and how long it took to the first reply of ``1+1``."""
    manager = AsyncKernelManager(kernel_name=name)
    started = time.perf_counter()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=TIMEOUT_S)
        await run(client, "1+1")
        yield manager, client, time.perf_counter() - started
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


async def run(client, code: str) -> float:
    """Run a cell and wait until its last output came; seconds."""
    started = time.perf_counter()
    await client.execute_interactive(code, store_history=False, timeout=TIMEOUT_S, output_hook=lambda message: None)
    return time.perf_counter() - started


def pss_mib(manager) -> float:
    """Memory of everything that belongs to the kernel: its process, or QEMU and the shim."""
    provisioner = manager.provisioner
    if getattr(provisioner, "pid", None):
        return read_pss(provisioner.pid) / 2**20
    record = Client().sandbox(provisioner._sandbox)
    return (read_pss(record.shim_pid) + read_pss(record.qemu_pid)) / 2**20


async def measure(name: str) -> dict[str, float]:
    """One run of everything with a fresh kernel."""
    async with kernel(name) as (manager, client, start_s):
        trips = [await run(client, "1+1") for _ in range(20)]
        idle = pss_mib(manager)
        output_s = await run(client, f"for _ in range({OUTPUT_MB}): print('x' * 999_999)")
        restart_s = await time_restart(manager, client)
        return {
            "start to first 1+1 (s)": start_s,
            "round trip of 1+1 (ms)": statistics.median(trips) * 1000,
            f"{OUTPUT_MB} MB of output (s)": output_s,
            "restart to first 1+1 (s)": restart_s,
            "memory, idle (MiB Pss)": idle,
        }


async def time_restart(manager, client) -> float:
    """Restart with the client connected, until the first reply of ``1+1``."""
    started = time.perf_counter()
    await manager.restart_kernel(now=True)
    await client.wait_for_ready(timeout=TIMEOUT_S)
    await run(client, "1+1")
    return time.perf_counter() - started


async def medians(names: list[str], work: Callable[[str], Awaitable[dict[str, float]]], runs: int):
    """Median per name and figure, the names in turn; one round first that does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for round_number in range(runs + 1):
        for name in names:
            figures = await work(name)
            if round_number:
                found[name].append(figures)
    return {
        name: {figure: statistics.median(one[figure] for one in rows) for figure in rows[0]}
        for name, rows in found.items()
    }


def show(result: dict[str, dict[str, float]], tier: str, runs: int) -> None:
    """The table people read."""
    table = Table(title=f"median of {runs} runs, tier {tier}, {platform.release()}")
    for column in ("", "local ipykernel", "Hyper Python", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for figure, local in result[LOCAL].items():
        hyper = result[HYPER][figure]
        table.add_row(figure, f"{local:.3g}", f"{hyper:.3g}", f"{hyper / local:.2f} x")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    result = asyncio.run(medians([LOCAL, HYPER], measure, args.runs))
    tier = Client().status()["tier"]
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps({"tier": tier, "runs": args.runs, "medians": result}, indent=2))
    show(result, tier, args.runs)


if __name__ == "__main__":
    main()
