"""What goes on in hyperd, for as long as somebody wants to know: events as they happen, and measurements.

hyperd leaves when nobody needs it, and a Jupyter server that only looks is no need: where no sandbox is alive, all that
is looked at is the folder of the records.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from hyper_kernel.client import Record, State
from hyper_kernel.errors import HyperError
from jupyter_ext.hyperd import Hyperd, in_thread
from jupyter_ext.models import Usage

log = logging.getLogger(__name__)

#: So many sandboxes are measured at a time, in turn: each measurement asks a guest and walks the machine's memory.
_MEASURED = 8
#: Measuring goes on so long after somebody looked, in seconds: a little longer than scrapers usually wait.
_WANTED_S = 90.0
#: How long one request for events waits, in seconds; a thread of a server that ends lasts no longer.
_SLICE_S = 10.0
#: How often it is looked whether anything was started, in seconds.
_LOOK_S = 1.0

#: What tells that something about sandboxes has changed on disk.
_Stamp = tuple[int, int]


class Watch:
    """Sandboxes as they were seen last.

    :param on_event: called in the loop with each of hyperd's events (Docker's shape), and with the reason of an end.
    :param sample_s: how often all is measured while somebody looks, in seconds.
    """

    def __init__(self, hyperd: Hyperd, on_event: Callable[[dict[str, Any], str], None], *, sample_s: float) -> None:
        self._hyperd = hyperd
        self._on_event = on_event
        self._sample_s = sample_s
        self._wanted_until_s = 0.0
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._records: list[Record] = []
        self._stamp: _Stamp | None = None
        self._next = 0
        self._since_ns = 0
        #: What each that lives used, by its id.
        self.usage: dict[str, Usage] = {}
        #: Processor time of all sandboxes since the server started, in seconds.
        self.cpu_s = 0.0
        #: How much the firewall removed from outputs since the server started.
        self.removed = 0

    @property
    def records(self) -> list[Record]:
        """All sandboxes as they were when last asked for, newest first."""
        return self._records

    def start(self) -> None:
        """Begin to listen; measuring begins when somebody looks."""
        self._since_ns = time.time_ns()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._sample())]

    async def stop(self) -> None:
        """End both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def touch(self) -> None:
        """Somebody looks: measure for a while from now on."""
        self._wanted_until_s = time.monotonic() + _WANTED_S
        self._wanted.set()

    async def look(self, *, fresh: bool = True) -> list[Record]:
        """All sandboxes, newest first; none where hyperd does not run.

        :param fresh: ask hyperd also where nothing seems to have changed.
        :raise HyperError: hyperd cannot be asked.
        """
        self.touch()
        stamp = self._read_stamp()
        if not fresh and stamp == self._stamp and not any(map(is_alive, self._records)):
            return self._records
        records = await self._read(liveness=False)
        before = {each.id: each for each in self._records}
        self._records = [_with_last_look(each, before.get(each.id)) for each in records]
        self._stamp = stamp
        return self._records

    async def _read(self, *, liveness: bool) -> list[Record]:
        if not await self._hyperd.is_running():
            return []
        return await self._hyperd.call(self._hyperd.reader.sandboxes, everything=True, liveness=liveness)

    async def _sample(self) -> None:
        """Measure again and again while it is wanted."""
        while True:
            if time.monotonic() > self._wanted_until_s:
                self._wanted.clear()
                await self._wanted.wait()
            with contextlib.suppress(HyperError):  # whoever asks for sandboxes is told what is wrong
                await self._measure()
            await asyncio.sleep(self._sample_s)  # use and liveness are rates: they make no event

    async def _measure(self) -> None:
        stamp = self._read_stamp()
        if stamp == self._stamp and not any(map(is_alive, self._records)):
            return
        before = {each.id: each for each in self._records}
        self._records, self._stamp = await self._read(liveness=True), stamp
        for each in self._records:
            self.removed += max(0, count_removed(each) - count_removed(before.get(each.id)))
        running = [each.id for each in self._records if each.state is State.RUNNING]
        self.usage = {ident: used for ident, used in self.usage.items() if ident in running}
        turn = [running[(self._next + at) % len(running)] for at in range(min(_MEASURED, len(running)))]
        self._next += len(turn)
        await asyncio.gather(*(self._measure_one(ident) for ident in turn))

    async def _measure_one(self, ident: str) -> None:
        with contextlib.suppress(HyperError):  # it has just ended
            said = await self._hyperd.call(self._hyperd.reader.stats, ident)
            before = self.usage.get(ident)
            now = Usage(
                measured_s=time.time(),
                memory_bytes=int(said["memory_stats"]["usage"]),
                cpu_s=said["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            ).after(before)
            self.usage[ident] = now
            self.cpu_s += max(0.0, now.cpu_s - (before.cpu_s if before else 0.0))

    async def _listen(self) -> None:
        """Hear events, in slices: hyperd remembers what happens in between, and also while it is not asked."""
        quiet: _Stamp | None = None
        while True:
            stamp = self._read_stamp()
            if stamp == quiet:
                await asyncio.sleep(_LOOK_S)  # hyperd may be gone, and a folder has no event that comes for free
                continue
            try:
                if await self._hyperd.is_running():
                    await in_thread(self._carry, asyncio.get_running_loop(), self._since_ns)
                    alive = (await self._hyperd.call(self._hyperd.reader.status))["alive"]
                    quiet = None if alive else stamp
                    continue
            except HyperError as exc:
                log.debug("no events from hyperd: %s", exc)
            await asyncio.sleep(_LOOK_S)

    def _carry(self, loop: asyncio.AbstractEventLoop, since_ns: int) -> None:
        """Hand the events of one slice to the loop; runs in a thread."""
        since, until = f"{since_ns / 1e9:.9f}", f"{time.time() + _SLICE_S:.9f}"
        for event in self._hyperd.reader.events(since=since, until=until):
            reason = self._read_reason(event["Actor"]["ID"]) if event["Action"] in ("oom", "die") else ""
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._take, event, reason)

    def _read_reason(self, ident: str) -> str:
        with contextlib.suppress(HyperError):  # it is removed already
            return self._hyperd.reader.sandbox(ident).reason
        return ""

    def _take(self, event: dict[str, Any], reason: str) -> None:
        if event["timeNano"] > self._since_ns:
            self._since_ns = event["timeNano"]
            self._on_event(event, reason)

    def _read_stamp(self) -> _Stamp:
        """Changes when a sandbox is added, removed or started."""
        folder = self._hyperd.paths.sandboxes
        with contextlib.suppress(OSError):
            return folder.stat().st_mtime_ns, max((each.stat().st_mtime_ns for each in folder.iterdir()), default=0)
        return 0, 0


def is_alive(record: Record) -> bool:
    """Whether it has a machine, or is about to."""
    return record.state in (State.BOOTING, State.RUNNING, State.STOPPING)


def count_removed(record: Record | None) -> int:
    """How much the firewall has removed from a sandbox's outputs."""
    return sum(record.removed.values()) if record else 0


def _with_last_look(record: Record, before: Record | None) -> Record:
    """A record that was read without its liveness, with what was known of that."""
    if before is None or record.state is not State.RUNNING:
        return record
    return record.changed(liveness=before.liveness, idle_s=before.idle_s, removed=before.removed)
