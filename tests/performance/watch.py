"""A look at hyperd and all below it, many times a second: what it uses, and what its shims log."""

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import IO, Self

import psutil

from hyper_kernel.client import Client
from hyper_kernel.host.usage import read_pss
from hyper_kernel.paths import Paths
from tests.performance.table import Row

#: How often processor time, and memory (which costs the host's kernel a millisecond for each machine), are looked at.
_LOOK_S, _MEMORY_S = 0.1, 1.0
#: The length of a line's time.
_TIME = len("2000-01-01 00:00:00,000")
_STEP = re.compile(r"step (.+): ([\d.]+) ms")

#: Steps that are parts of another, which is logged after them.
_PARTS = {"get a guest": ("start the hypervisor", "plug vsock", "meet the agent")}

QEMU, SHIMS, DAEMON = "QEMUs", "shims", "hyperd and the shims' warm parent"


class Watch:
    """What was seen.

    Of the processor time of what has ended, up to ``_LOOK_S`` of each process is missing: nobody else can tell.
    """

    def __init__(self, daemon: psutil.Process, paths: Paths) -> None:
        self._daemon = daemon
        self._sandboxes = paths.sandboxes
        self._cpu_s: dict[tuple[str, int], float] = {}
        self._logs: dict[str, IO[str]] = {}
        self.peak_bytes = 0
        self.peak_machines = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, paths: Paths) -> AsyncIterator[Self]:
        """Watch the hyperd of a home for as long as the context lasts."""
        watch = cls(psutil.Process(Client().status()["pid"]), paths)
        task = asyncio.create_task(watch._run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            watch._look(memory=False)
            for log in watch._logs.values():
                log.seek(0)

    def cpu_s(self, role: str) -> float:
        """Processor time of all processes of a role."""
        return sum(seconds for (its, _), seconds in self._cpu_s.items() if its == role)

    def steps_ms(self) -> dict[str, list[float]]:
        """How long each step took in each shim, and what came after the last one, by name; call once."""
        found = defaultdict(list)
        for log in self._logs.values():
            with log:
                text = log.read()
            for what, milliseconds in (*find_steps(text).items(), *_find_end(text).items()):
                found[what].append(milliseconds)
        return found

    async def _run(self) -> None:
        next_s = 0.0
        while True:
            memory = time.monotonic() >= next_s
            if memory:
                next_s = time.monotonic() + _MEMORY_S
            self._look(memory=memory)
            await asyncio.sleep(_LOOK_S)

    def _look(self, *, memory: bool) -> None:
        self._open_logs()
        processes = [self._daemon, *self._daemon.children(recursive=True)]
        machines = 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                role = self._role(process)
                machines += role == QEMU
                self._note(role, process)
        self.peak_machines = max(self.peak_machines, machines)
        if memory:
            self.peak_bytes = max(self.peak_bytes, total_pss(process.pid for process in processes))

    def _note(self, role: str, process: psutil.Process) -> None:
        times = process.cpu_times()
        if role == QEMU:
            self._grow(QEMU, process.ppid(), times.user + times.system)
            return
        self._grow(role, process.pid, times.user + times.system)
        if role == SHIMS:  # when its QEMU has ended, a shim has all that it used
            self._grow(QEMU, process.pid, times.children_user + times.children_system)

    def _grow(self, role: str, pid: int, seconds: float) -> None:
        self._cpu_s[role, pid] = max(seconds, self._cpu_s.get((role, pid), 0.0))

    def _role(self, process: psutil.Process) -> str:
        if process.name().startswith("qemu"):
            return QEMU
        is_warm_parent = process.ppid() == self._daemon.pid
        return DAEMON if is_warm_parent or process == self._daemon else SHIMS

    def _open_logs(self) -> None:
        """Hold the log of each sandbox: the folder goes with the sandbox."""
        for folder in self._sandboxes.iterdir():
            if folder.name not in self._logs:
                with contextlib.suppress(FileNotFoundError):
                    self._logs[folder.name] = (folder / "shim.log").open()


def find_steps(log: str) -> dict[str, float]:
    """How long each step took that stands in a log (see ``host.timing``), in milliseconds; of each the last."""
    return {what: float(milliseconds) for what, milliseconds in _STEP.findall(log)}


def step_rows(steps_ms: Mapping[str, Sequence[float]]) -> list[Row]:
    """Rows for the steps of shims, each before its parts."""
    parts = {part for its in _PARTS.values() for part in its}
    names = [(name, part) for name in steps_ms if name not in parts for part in (name, *_PARTS.get(name, ()))]
    return [
        Row(
            what=f"shim: {name}" if part == name else f"  {part}",
            unit="ms",
            hyper=steps_ms[part],
            is_detail=True,
        )
        for name, part in names
        if part in steps_ms
    ]


def sum_steps_ms(steps_ms: Mapping[str, float]) -> float:
    """All steps together, parts of others left out."""
    return sum(steps_ms.values()) - sum(steps_ms.get(part, 0.0) for its in _PARTS.values() for part in its)


def _find_end(log: str) -> dict[str, float]:
    """How long a shim's program and the end of its machine took, in milliseconds, by the times of its log's lines."""
    lines = log.splitlines()
    at = next((number for number, line in enumerate(lines) if ": ending: " in line), 0)
    if not at:
        return {}
    started, ended, gone = (
        datetime.strptime(line[:_TIME], "%Y-%m-%d %H:%M:%S,%f") for line in (lines[at - 1], lines[at], lines[-1])
    )
    return {
        "its program": (ended - started).total_seconds() * 1000,
        "the end of its machine": (gone - ended).total_seconds() * 1000,
    }


def total_pss(pids: Iterable[int]) -> int:
    """Proportional set size of processes together, in bytes; one that is gone counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += read_pss(pid)
    return total
