"""An executor whose calls run in sandboxes."""

import contextlib
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import cloudpickle

from hyper_kernel.client import Client
from hyper_kernel.errors import BusyError
from hyper_kernel.executor.future import HyperFuture
from hyper_kernel.executor.worker import Worker
from hyper_kernel.limits import parse_bytes, split_cpus
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, Limits, SandboxSpec

# As the executors of the standard library, whose users listen there.
log = logging.getLogger("concurrent.futures")

#: Sandboxes at once, unless the caller says otherwise. How many start at once is hyperd's to bound.
AT_ONCE = 32
#: How long to wait for one of our sandboxes to end before asking again for one that had no room, in seconds.
_ROOM_S = 2.0
#: How often to ask, where none of ours could make room.
_ATTEMPTS = 15
#: cloudpickle's list of modules that go by value is the process's own.
_pickling = threading.Lock()


class HyperExecutor(Executor):
    """Runs functions in sandboxes, each call in a fresh one.

    Functions, arguments and their modules go in by cloudpickle. Results come out as data (see ``values``): numbers,
    texts, lists, dicts, NumPy arrays, data frames; nothing that comes out is ever unpickled. What a function raises is
    raised here, with the traceback there as its cause; classes that are not Python's own become ``RemoteError``.

    :param max_workers: how many sandboxes at once, at most; hyperd's policy may allow fewer.
    :param image: what they start from; it has an IPython kernel.
    :param memory, cpus: of each, as ``"2g"`` and 2; empty and zero: as policy says.
    :param timeout: how long one call may take once it runs, in seconds; then its sandbox is removed.
    :param reuse: whether a sandbox takes further calls; what they leave in it is there for the next.
    :param initializer: called first in each new sandbox, with ``initargs``.
    :param modules: modules of yours that go along, since the image has them not.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        image: str = DEFAULT_IMAGE,
        memory: str = "",
        cpus: float = 0.0,
        timeout: float | None = None,
        reuse: bool = False,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        modules: Iterable[ModuleType] = (),
        client: Client | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._client = client or Client()
        self._spec = _make_spec(image, memory, cpus)
        self._timeout_s = timeout
        self._reuse = reuse
        self._modules = tuple(modules)
        self._initializer = initializer
        self._first = self._pickle(initializer, tuple(initargs)) if initializer else b""
        self._max_workers = max_workers or AT_ONCE
        self._threads = ThreadPoolExecutor(self._max_workers, thread_name_prefix="HyperExecutor")
        self._lock = threading.Condition()
        #: Calls that have not ended, in their order.
        self._waiting: dict[HyperFuture, None] = {}
        self._idle: list[Worker] = []
        self._alive = 0
        self._is_shut = False
        self._broken = ""
        # Of one that nobody shuts down: its threads end by themselves, and so must its sandboxes.
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def __repr__(self) -> str:
        return f"<HyperExecutor {self._spec.image} alive={self._alive} waiting={len(self._waiting)}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> HyperFuture:
        """Call a function in a sandbox; see :class:`HyperFuture`.

        :raise RuntimeError: the executor was shut down.
        :raise BrokenExecutor: its initializer failed.
        :raise pickle.PicklingError, TypeError: function or arguments cannot be pickled.
        """
        payload = self._pickle(fn, args, kwargs, self._initializer)
        with self._lock:
            self._check_broken()
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = HyperFuture()
            # It says that of the interpreter's own end.
            self._threads.submit(self._run, future, payload)
            self._waiting[future] = None
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Sandboxes that wait for calls are removed, others when theirs has ended.

        :param wait: until all calls have ended.
        :param cancel_futures: cancel those for which no thread is free; ``HyperFuture.cancel`` ends one that runs.
        """
        with self._lock:
            self._is_shut = True
            waiting = list(self._waiting)[self._max_workers :]  # for those before them there is a thread
        if cancel_futures:
            for future in waiting:
                future.cancel()
        self._threads.shutdown(wait=wait)
        self._close_idle()

    def _run(self, future: HyperFuture, payload: bytes) -> None:
        """One call, in a thread of its own."""
        try:
            future.finish(self._call(future, payload) if future.begin() else None)
        except BaseException as exc:  # noqa: BLE001 - it is raised where the result is asked for
            future.finish(error=exc)
        finally:
            with self._lock:
                self._waiting.pop(future, None)
            self._close_idle()

    def _call(self, future: HyperFuture, payload: bytes) -> Any:
        self._check_broken()
        future.note(started_s=time.time())
        worker = self._take(future)
        try:
            future.set_killer(worker.kill)
            future.note(ready_s=time.time(), sandbox=worker.name)
            return worker.call(payload, self._timeout_s)
        finally:
            future.set_killer(None)
            self._give_back(worker)

    def _take(self, future: HyperFuture) -> Worker:
        """A sandbox for a call: one that is idle, or a new one when there is room.

        :raise BrokenExecutor: its initializer failed.
        :raise HyperError: none starts.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
        worker = self._start(future)
        with self._lock:
            self._alive += 1
        if self._first:
            try:
                worker.call(self._first, self._timeout_s, "initialize")
            except BaseException as exc:
                self._give_back(worker, is_good=False)
                self._broken = "the initializer failed, so that no more calls are taken"
                log.critical("Exception in initializer:", exc_info=True)
                raise BrokenExecutor(self._broken) from exc
        return worker

    def _start(self, future: HyperFuture) -> Worker:
        """A new sandbox; where hyperd has no room, when one of ours has ended."""
        for attempt in itertools.count(1):
            try:
                return Worker.start(self._client, self._spec)
            except BusyError:
                with self._lock:
                    if future.cancelled() or (not self._alive and attempt >= _ATTEMPTS):
                        raise
                    # Others than ours may end too, of which nobody tells us.
                    self._lock.wait(_ROOM_S)
        raise AssertionError("counting has no end")

    def _give_back(self, worker: Worker, *, is_good: bool = True) -> None:
        """Keep a sandbox for the next call, or remove it."""
        with self._lock:
            if is_good and self._reuse and worker.is_usable:
                self._idle.append(worker)
                return
        worker.close()
        with self._lock:
            self._alive -= 1
            self._lock.notify_all()

    def _close_idle(self) -> None:
        """Remove the sandboxes that wait, once no call will come any more."""
        with self._lock:
            if not self._is_shut or self._waiting:
                return
        _close_all(self._idle)

    def _check_broken(self) -> None:
        if self._broken:
            raise BrokenExecutor(self._broken)

    def _pickle(self, *parts: Any) -> bytes:
        with _pickling, contextlib.ExitStack() as stack:
            for module in self._modules:
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
            data: bytes = cloudpickle.dumps(parts)
        return data


def _make_spec(image: str, memory: str, cpus: float) -> SandboxSpec:
    whole_cpus, cpu_percent = split_cpus(cpus)
    return SandboxSpec(
        image=image,
        memory_mib=-(-parse_bytes(memory or "0") >> 20),
        cpus=whole_cpus,
        limits=Limits(cpu_percent=cpu_percent),
        kernel=KernelSpec(files="none"),
    )


def _close_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().close()
