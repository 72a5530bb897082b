"""Where hyperd gets shims: parked ones that have a warm clone already, or new ones.

Clones are parked for shapes that were wanted lately and for those that somebody asked to keep ready: one at a time, and
only when nothing was started for a moment, so that no start waits for them. Templates are baked in the same way.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hyper_kernel.errors import HyperError
from hyper_kernel.host.memory import Memory, read_memory
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.plan import Shape
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.demand import Demand, Do, Step, decide
from hyper_kernel.shim.keep import Keep, KeepList, describe_unmet
from hyper_kernel.shim.nursery import Nursery
from hyper_kernel.shim.parked import sweep_parked
from hyper_kernel.shim.shapes import Shapes
from hyper_kernel.shim.worker import Worker

log = logging.getLogger(__name__)

#: Nothing is parked or baked within so many seconds after a start.
QUIET_S = 1.0
#: How often targets, staleness and memory are looked at when nothing happens, in seconds.
_LOOK_S = 5.0
#: A shape that could not be parked or baked is left alone for so long, in seconds; twice as long after each failure.
BACKOFF_S, _MAX_BACKOFF_S = 120.0, 3600.0
#: How long parking or baking may take, in seconds.
_WORK_S = 300.0


@dataclass(eq=False, slots=True)
class Waiting:
    """A process that parks a clone of a template, or has parked it and can be claimed (``is_ready``)."""

    shape: Shape
    template: str
    worker: Worker
    is_ready: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a shape could not be parked or baked, how often in a row, and until when it is left alone."""

    reason: str
    count: int
    until_s: float


class Pool:
    """See ``daemon.pool.Pool``.

    :param nursery: forks them.
    :param shapes: looks up what fits what; those on disk where it is left out.
    :param memory: reads what memory is left.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        paths: Paths,
        nursery: Nursery,
        *,
        shapes: Shapes | None = None,
        memory: Callable[[], tuple[Memory, ...]] = read_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._nursery = nursery
        self._shapes = shapes or Shapes(paths)
        self._memory = memory
        self._clock = clock
        self._kept = KeepList(paths.state / "pool.json")
        self._demand = Demand()
        self._waiting: list[Waiting] = []
        self._failures: dict[Shape, Failure] = {}
        #: What is going on with the template that is being baked.
        self._doing: dict[Shape, str] = {}
        self._last_s = clock()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those that no sandbox has.
        self._workers: set[Worker] = set()

    async def start(self) -> None:
        """Start the warm parent, and see to the clones that shall be parked."""
        sweep_parked(self._paths)
        await self._nursery.start()
        self._spawn(self._run())

    async def get(self, record: Record, listener: socket.socket) -> int:
        """A shim for a recorded sandbox, controlled by a bound socket; its pid."""
        key = ""
        try:
            shape = self._shapes.of_record(record)
            template = await self._shapes.find_template(shape)
            key = template.key if template else ""
            self._note_start(shape)
            if (pid := await self._claim(shape, key, record, listener)) is not None:
                return pid
        except HyperError as exc:
            log.info("%s: %s", record.name, exc)  # the shim will say so, where people see it
        return await self._nursery.fork({"do": "run", "id": record.id, "template": key}, listener.fileno())

    async def close(self) -> None:
        """End what is parked and the warm parent; shims that sandboxes have live on."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in tuple(self._workers)))
        await self._nursery.close()

    @property
    def is_kept(self) -> bool:
        """Whether somebody asked for clones to be ready, for which hyperd stays."""
        return bool(self._kept_shapes())

    @property
    def parked(self) -> int:
        """How many clones can be claimed."""
        return sum(one.is_ready for one in self._waiting)

    async def keep(self, keep: Keep) -> None:
        """Have so many clones ready from now on, also after a restart of hyperd; 0: only what demand asks for.

        :raise NotFoundError: clones are wanted, and there is no such image.
        :raise RequestError: they are wanted with a kernel, and the image has none that can be cloned.
        :raise HostError: the wish cannot be saved, or the image's disk cannot be made.
        """
        settled = await asyncio.to_thread(self._shapes.settle, keep)
        self._kept.put(settled)
        self._failures.clear()  # who asks again may have mended something
        self._wake.set()

    def describe(self) -> list[dict[str, Any]]:
        """What is parked, on its way, and aimed at, by shape; wishes that cannot be met now last."""
        targets, kept = self._targets(), self._kept_shapes()
        shapes = dict.fromkeys([*targets, *(one.shape for one in self._waiting)])
        rows = [self._describe(shape, targets[shape], kept[shape]) for shape in shapes]
        for keep in self._kept.all():
            try:
                self._shapes.of_wish(keep)
            except HyperError as exc:
                rows.append(describe_unmet(keep, str(exc)))
        return rows

    async def step(self) -> bool:
        """Take one step towards the targets, unless something was started just now; whether there was one."""
        if self._clock() - self._last_s < QUIET_S:
            return False
        step = await self._next_step()
        if step is None:
            return False
        log.info("pool: %s %s", step.do, step.shape)
        try:
            await self._do(step)
        except (HyperError, OSError) as exc:
            self._fail(step.shape, {"failed": str(exc)})
        return True

    def _note_start(self, shape: Shape) -> None:
        self._last_s = self._clock()
        self._demand.note(shape, self._last_s)
        self._wake.set()

    async def _claim(self, shape: Shape, key: str, record: Record, listener: socket.socket) -> int | None:
        """Give a parked clone of a shape to a sandbox; its pid, or None where there is none."""
        for one in [one for one in self._waiting if one.shape == shape and one.is_ready]:
            self._waiting.remove(one)
            try:
                if one.template == key:
                    one.worker.claim(record.id, listener)
                    self._workers.discard(one.worker)
                    return one.worker.pid
            except OSError as exc:
                log.info("pool: a parked clone has ended: %s", exc)
            finally:
                one.worker.close()
            self._spawn(self._end(one.worker))
        return None

    def _describe(self, shape: Shape, target: int, kept: int) -> dict[str, Any]:
        mine = [one.is_ready for one in self._waiting if one.shape == shape]
        failure = self._failures.get(shape)
        return asdict(shape) | {
            "image": self._shapes.name(shape),
            "parked": sum(mine),
            "warming": len(mine) - sum(mine),
            "target": target,
            "kept": kept,
            "doing": self._doing.get(shape, ""),
            "problem": failure.reason if failure else "",
        }

    async def _run(self) -> None:
        """Step by step towards the targets, for ever."""
        while True:
            self._wake.clear()
            if await self.step():
                continue
            quiet_s = self._last_s + QUIET_S - self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(quiet_s if quiet_s > 0 else _LOOK_S):
                    await self._wake.wait()

    async def _next_step(self) -> Step | None:
        targets, now_s = self._targets(), self._clock()
        keys = await self._read_keys({*targets, *(one.shape for one in self._waiting)})
        for one in tuple(self._waiting):
            if one in self._waiting and one.is_ready and one.template != keys.get(one.shape):
                log.info("pool: a parked clone is stale")
                await self._retire(one)
        parked = Counter(one.shape for one in self._waiting)
        for shape in tuple(targets):
            failure = self._failures.get(shape)
            if shape not in keys or (failure and now_s < failure.until_s):
                targets[shape] = min(targets[shape], parked[shape])
        return decide(targets, parked, (shape for shape, key in keys.items() if key), self._memory())

    async def _read_keys(self, shapes: Iterable[Shape]) -> dict[Shape, str]:
        """The keys of the templates of exactly these shapes, empty where there is none; without those whose image or
        guest is gone."""
        keys = {}
        for shape in shapes:
            with contextlib.suppress(HyperError):
                found = await self._shapes.find_template(shape)
                keys[shape] = found.key if found and found.facts["kernel"] == shape.kernel else ""
        return keys

    async def _do(self, step: Step) -> None:
        match step.do:
            case Do.RETIRE:
                await self._retire(next(one for one in self._waiting if one.shape == step.shape))
            case Do.PARK:
                await self._park(step.shape)
            case Do.BAKE:
                await self._bake(step.shape)

    async def _park(self, shape: Shape) -> None:
        """Park one clone; returns when it is parked, or has failed."""
        template = (await self._read_keys([shape])).get(shape, "")
        worker = await self._start_worker({"do": "park", "shape": asdict(shape), "template": template})
        one = Waiting(shape, template, worker)
        self._waiting.append(one)
        answer = await worker.answer(_WORK_S)
        if "parked" in answer:
            self._failures.pop(shape, None)
            one.is_ready = True
            worker.watch(lambda: self._bury(one))
        else:
            self._fail(shape, answer)
            await self._retire(one)

    async def _bake(self, shape: Shape) -> None:
        worker = await self._start_worker({"do": "bake", "shape": asdict(shape)})
        try:
            while what := (answer := await worker.answer(_WORK_S)).get("doing"):
                self._doing[shape] = str(what)
        finally:
            self._doing.pop(shape, None)
        if "baked" not in answer:
            self._fail(shape, answer)
        await self._end(worker)

    async def _start_worker(self, order: dict[str, Any]) -> Worker:
        worker = await Worker.start(self._nursery, order)
        self._workers.add(worker)
        return worker

    def _bury(self, one: Waiting) -> None:
        """Forget a parked clone that has died."""
        log.warning("pool: a parked clone died (%s)", one.worker)
        self._spawn(self._retire(one))
        self._wake.set()

    def _fail(self, shape: Shape, answer: dict[str, Any]) -> None:
        reason, before = str(answer.get("failed")), self._failures.get(shape)
        log.warning("pool: no clone of %s: %s", shape, reason)
        count = before.count + 1 if before else 1
        backoff_s = min(BACKOFF_S * 2 ** (count - 1), _MAX_BACKOFF_S)
        self._failures[shape] = Failure(reason, count, self._clock() + backoff_s)

    async def _retire(self, one: Waiting) -> None:
        """Let go of one; returns when its memory is free again."""
        if one in self._waiting:
            self._waiting.remove(one)
        await self._end(one.worker)

    async def _end(self, worker: Worker) -> None:
        worker.close()
        await worker.wait_end()
        self._workers.discard(worker)
        sweep_parked(self._paths)  # it may have been killed

    def _targets(self) -> Counter[Shape]:
        return self._demand.targets(self._clock()) | self._kept_shapes()

    def _kept_shapes(self) -> Counter[Shape]:
        found: Counter[Shape] = Counter()
        for keep in self._kept.all():
            with contextlib.suppress(HyperError):  # its image is not there now
                found |= Counter({self._shapes.of_wish(keep): keep.count})
        return found

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
