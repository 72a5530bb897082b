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
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from hyper_kernel.errors import HyperError
from hyper_kernel.host.memory import Memory, read_memory
from hyper_kernel.host.orders import open_orders, receive_order, send_order
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import Shape, plan_boot, plan_shape
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.demand import Demand, Do, Step, decide
from hyper_kernel.shim.keep import Keep, KeepList
from hyper_kernel.shim.nursery import Nursery
from hyper_kernel.template.source import find_template
from hyper_kernel.template.store import TemplateStore

log = logging.getLogger(__name__)

#: Nothing is parked or baked within so many seconds after a start.
_QUIET_S = 1.0
#: How often targets, staleness and memory are looked at when nothing happens, in seconds.
_LOOK_S = 5.0
#: A shape that could not be parked or baked is left alone for so long, in seconds.
_BACKOFF_S = 120.0


@dataclass(eq=False, slots=True)
class Waiting:
    """A process that parks a clone, or has parked it (``is_ready``); ``watch`` then waits for its end."""

    shape: Shape
    template: str
    pid: int
    orders: socket.socket
    watch: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can be claimed."""
        return self.watch is not None

    async def close(self) -> None:
        """Let go of it: unless it was claimed, it ends itself."""
        if self.watch and self.watch is not asyncio.current_task():
            self.watch.cancel()
            await asyncio.gather(self.watch, return_exceptions=True)  # it reads the socket until then
        self.orders.close()


class Pool:
    """See ``daemon.shims.Shims``.

    :param nursery: forks them.
    :param memory: reads what memory is left.
    """

    def __init__(
        self, paths: Paths, nursery: Nursery, *, memory: Callable[[], tuple[Memory, ...]] = read_memory
    ) -> None:
        self._paths = paths
        self._nursery = nursery
        self._memory = memory
        self._images = ImageStore(paths.images)
        self._templates = TemplateStore(paths.templates)
        self._kept = KeepList(paths.state / "pool.json")
        self._demand = Demand()
        self._waiting: list[Waiting] = []
        self._failed_s: dict[Shape, float] = {}
        self._last_s = 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the warm parent, and see to the clones that shall be parked."""
        await self._nursery.start()
        self._spawn(self._run())

    async def get(self, record: Record, listener: socket.socket) -> int:
        """A shim for a recorded sandbox, controlled by a bound socket; its pid."""
        try:
            shape = plan_shape(self._images, record)
            template = await self._find_template(shape)
        except HyperError as exc:
            log.info("%s: %s", record.name, exc)  # the shim will say so, where people see it
            return await self._nursery.fork({"do": "run", "id": record.id}, listener.fileno())
        self._demand.note(shape, time.monotonic())
        self._last_s = time.monotonic()
        self._wake.set()
        while one := self._take(shape):
            try:
                if one.template == template:
                    send_order(one.orders, {"id": record.id}, listener.fileno())
                    return one.pid
            except OSError as exc:
                log.info("pool: a parked clone has ended: %s", exc)
            finally:
                await one.close()
        return await self._nursery.fork({"do": "run", "id": record.id, "template": template}, listener.fileno())

    async def close(self) -> None:
        """End what is parked and the warm parent; shims that sandboxes have live on."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._waiting:
            await one.close()
        await self._nursery.close()

    @property
    def is_kept(self) -> bool:
        """Whether somebody asked for clones to be ready, for which hyperd stays."""
        return bool(self._kept.all())

    def keep(self, keep: Keep) -> None:
        """Have so many clones ready from now on, also after a restart of hyperd; 0: only what demand asks for.

        :raise NotFoundError: there is no such image.
        :raise HostError: the wish cannot be saved.
        """
        keep.shape(self._images)
        self._kept.put(keep)
        self._wake.set()

    def describe(self) -> list[dict[str, Any]]:
        """What is parked, on its way, and aimed at, by shape."""
        targets, kept = self._targets(), self._kept_shapes()
        shapes = [*targets, *(one.shape for one in self._waiting if one.shape not in targets)]
        return [
            asdict(shape)
            | {
                "image": next(iter(self._image_names(shape)), shape.image_id),
                "parked": sum(one.is_ready for one in self._waiting if one.shape == shape),
                "warming": sum(not one.is_ready for one in self._waiting if one.shape == shape),
                "target": targets[shape],
                "kept": kept[shape],
            }
            for shape in dict.fromkeys(shapes)
        ]

    def _take(self, shape: Shape) -> Waiting | None:
        for one in self._waiting:
            if one.shape == shape and one.is_ready:
                self._waiting.remove(one)
                return one
        return None

    async def _run(self) -> None:
        """Step by step towards the targets, for ever."""
        while True:
            self._wake.clear()
            step = None
            if time.monotonic() - self._last_s >= _QUIET_S:
                step = await self._next_step()
            if step:
                log.info("pool: %s %s", step.do, step.shape)
                await self._do(step)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIET_S if self._wake.is_set() else _LOOK_S):
                    await self._wake.wait()
            if time.monotonic() - self._last_s < _QUIET_S:
                await asyncio.sleep(_QUIET_S)  # a clock, not an event, says when it has been quiet for a while

    async def _next_step(self) -> Step | None:
        await self._drop_stale()
        targets, now_s = self._targets(), time.monotonic()
        for shape in tuple(targets):
            if now_s - self._failed_s.get(shape, -_BACKOFF_S) < _BACKOFF_S:
                del targets[shape]
        baked = [shape for shape in targets if await self._find_template(shape)]
        return decide(targets, Counter(one.shape for one in self._waiting), baked, self._memory())

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
        template = await self._find_template(shape)
        ours, pid = await self._order({"do": "park", "shape": asdict(shape), "template": template})
        one = Waiting(shape, template, pid, ours)
        self._waiting.append(one)
        answer = await self._answer(ours)
        if "parked" in answer:
            one.watch = self._spawn(self._watch(one))
        else:
            self._fail(shape, answer)
            await self._retire(one)

    async def _bake(self, shape: Shape) -> None:
        ours, _ = await self._order({"do": "bake", "shape": asdict(shape)})
        with ours:
            answer = await self._answer(ours)
        if "baked" not in answer:
            self._fail(shape, answer)

    async def _order(self, order: dict[str, Any]) -> tuple[socket.socket, int]:
        """Have it done; our end of the pair that its process answers on, and its pid."""
        ours, theirs = open_orders()
        ours.setblocking(False)
        with theirs:
            try:
                return ours, await self._nursery.fork(order, theirs.fileno())
            except BaseException:
                ours.close()
                raise

    async def _answer(self, orders: socket.socket) -> dict[str, Any]:
        try:
            answer, _ = await receive_order(orders)
        except EOFError:
            answer = {"failed": "its process was killed"}
        return answer

    async def _watch(self, one: Waiting) -> None:
        """Forget a parked clone that has died; whatever it says, it is of no use any more."""
        await self._answer(one.orders)
        if one in self._waiting:
            log.warning("pool: a parked clone died (process %d)", one.pid)
            await self._retire(one)

    def _fail(self, shape: Shape, answer: dict[str, Any]) -> None:
        log.warning("pool: no clone of %s: %s", shape, str(answer.get("failed"))[:2000])
        self._failed_s[shape] = time.monotonic()

    async def _retire(self, one: Waiting) -> None:
        if one in self._waiting:
            self._waiting.remove(one)
        await one.close()

    async def _drop_stale(self) -> None:
        for one in tuple(self._waiting):
            if one.is_ready and one.template != await self._find_template(one.shape):
                log.info("pool: a parked clone is stale")
                await self._retire(one)

    async def _find_template(self, shape: Shape) -> str:
        """The key of the template of exactly this shape, empty where there is none.

        :raise HyperError: the image or the guest's files are gone.
        """
        image = self._images.get(shape.image_id)
        config = await plan_boot(self._paths, image, memory_mib=shape.memory_mib, cpus=shape.cpus, name="pool")
        found = find_template(self._templates, config, Qemu().build(), shape.kernel)
        return found.key if found and found.facts["kernel"] == shape.kernel else ""

    def _targets(self) -> Counter[Shape]:
        return self._demand.targets(time.monotonic()) | self._kept_shapes()

    def _kept_shapes(self) -> Counter[Shape]:
        found: Counter[Shape] = Counter()
        for keep in self._kept.all():
            with contextlib.suppress(HyperError):  # its image was removed
                found[keep.shape(self._images)] = keep.count
        return found

    def _image_names(self, shape: Shape) -> tuple[str, ...]:
        image = self._images.find(shape.image_id)
        return image.names if image else ()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
