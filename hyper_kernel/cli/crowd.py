"""Many sandboxes at once: calls to hyperd side by side, and ``hyper run --count``."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import TypeVar

import typer

from hyper_kernel.cli.main import exit_code, show_error
from hyper_kernel.client import Client, Stream
from hyper_kernel.errors import BusyError, GuestError, HyperError, LostError, NotFoundError
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.words import printable
from hyper_kernel.spec import SandboxSpec

#: Sandboxes, or calls, of one command under way at once. How many start at once is hyperd's to bound.
AT_ONCE = 32
#: A line that is longer is broken, so that a program which never ends one does not fill our memory; bytes.
MAX_LINE = 1 << 20
#: How wide most names are that hyperd chooses.
_NAME_WIDTH = 16
#: Colours of names on a terminal (SGR in ECMA-48).
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def call_all(act: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[Future[_Result]]:
    """Begin to act on all items, in order, ``AT_ONCE`` of them side by side; what becomes of each.

    The threads are daemons, which those of an Executor are not: who is interrupted need not wait for them.
    """
    calls: list[Future[_Result]] = [Future() for _ in items]
    todo: SimpleQueue[tuple[_Item, Future[_Result]] | None] = SimpleQueue()
    threads = min(AT_ONCE, len(items))
    for order in (*zip(items, calls, strict=True), *[None] * threads):
        todo.put(order)

    def work() -> None:
        while order := todo.get():
            item, call = order
            try:
                call.set_result(act(item))
            except BaseException as exc:  # noqa: BLE001 - it is raised where the result is asked for
                call.set_exception(exc)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    return calls


def plan_names(name: str, count: int) -> list[str]:
    """What to call so many: NAME-1, NAME-2 and so on; empty where hyperd chooses."""
    return [f"{name}-{number}" if name else "" for number in range(1, count + 1)]


def summary(codes: Sequence[int | None], seconds: float) -> str:
    """How a crowd ended, in a line; None is the code of one that was not started."""
    good, absent = codes.count(0), codes.count(None)
    text = f"{len(codes)} sandboxes: {good} exited 0, {len(codes) - good - absent} did not"
    return text + (f", {absent} were not started" if absent else "") + f"; {seconds:.1f} s"


class Output:
    """Both our outputs, for the lines of many: each line whole, after the name of who wrote it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(len(name) or _NAME_WIDTH for name in names)
        self._lock = threading.Lock()

    def copy(self, name: str, colour: int, stream: Stream) -> None:
        """Write what a program writes until it ends."""
        rests = {1: bytearray(), 2: bytearray()}
        for number, data in stream:
            rests[number] += data
            if b"\n" in data or len(rests[number]) > MAX_LINE:
                *lines, rest = rests[number].split(b"\n")
                if len(rest) > MAX_LINE:
                    lines, rest = [*lines, rest], bytearray()
                rests[number] = rest
                self._write(name, colour, number, lines)
        for number, rest in rests.items():
            if rest:
                self._write(name, colour, number, [rest])

    def say(self, error: HyperError) -> None:
        """Print an error, whole as well."""
        with self._lock:
            show_error(error)

    def _write(self, name: str, colour: int, number: int, lines: Sequence[bytes | bytearray]) -> None:
        out = sys.stdout if number == 1 else sys.stderr
        with self._lock:
            self._width = max(self._width, len(name))
            prefix = f"{name:<{self._width}} | "
            if out.isatty():
                # SECURITY: control characters could overwrite the name, and pass a line off as another sandbox's.
                lines = [printable(line.decode(errors="replace").removesuffix("\r")).encode() for line in lines]
                if "NO_COLOR" not in os.environ:
                    prefix = f"\x1b[{_COLOURS[colour % len(_COLOURS)]}m{prefix}\x1b[0m"
            out.buffer.write(b"".join(prefix.encode() + line + b"\n" for line in lines))
            out.buffer.flush()


class Crowd:
    """Sandboxes of one spec, run by one command; once.

    After a failure that would befall the others too (no memory, no such image) no more are started.

    :param names: one for each, see :func:`plan_names`.
    """

    def __init__(self, client: Client, spec: SandboxSpec, names: Sequence[str]) -> None:
        self._client = client
        self._spec = spec
        self._names = names
        self._output = Output(names)
        self._lock = threading.Lock()
        #: Sandboxes that go when this command is interrupted, by their place in ``names``.
        self._mine: dict[int, Record] = {}
        self._said: set[str] = set()
        self._closed = self._interrupted = False

    def run(self) -> int:
        """Run all to their ends and print what they write; the highest exit code.

        :raise typer.Exit: it was interrupted; no sandbox that was under way is left.
        """
        began_s = time.monotonic()
        codes = self._call_all(self._run_one)
        if sys.stderr.isatty():
            print(summary(codes, time.monotonic() - began_s), file=sys.stderr)
        return _highest(codes)

    def start(self) -> int:
        """Start all, and print the ids of those that run; 0, or the exit code of what failed.

        :raise typer.Exit: it was interrupted; no sandbox is left.
        """
        codes = self._call_all(self._start_one)
        for index, code in enumerate(codes):
            if code == 0:
                print(self._mine[index].id)
        return _highest(codes)

    def _call_all(self, act: Callable[[int, Record], int]) -> list[int | None]:
        """Create each, and act on it; exit codes, or None for those that were not started."""
        # The one thing that a signal's handler may safely do is to put something into a SimpleQueue.
        events: SimpleQueue[int | Future[int | None]] = SimpleQueue()
        with _signals_to(events.put):
            calls = call_all(lambda index: self._try(act, index), range(len(self._names)))
            for call in calls:
                call.add_done_callback(events.put)
            try:
                for _ in calls:
                    event = events.get()
                    if isinstance(event, int):
                        raise typer.Exit(128 + event)
                    event.result()
            except BaseException:  # a signal, or nobody reads what we write
                self._end(calls)
                raise
        return [call.result() for call in calls]

    def _try(self, act: Callable[[int, Record], int], index: int) -> int | None:
        if self._closed:
            return None
        try:
            record = self._client.create(self._spec, self._names[index])
            with self._lock:
                self._mine[index] = record
            if self._interrupted:
                self._remove(record)
                return None
            return act(index, record)
        except HyperError as exc:
            return self._fail(index, exc)

    def _run_one(self, index: int, record: Record) -> int:
        condition = "removed" if self._spec.auto_remove else "next-exit"
        with (
            contextlib.closing(self._client.attach(record.id)) as stream,
            self._client.waiting(record.id, condition) as ends,
        ):
            self._client.start(record.id)
            self._output.copy(record.name, index, stream)
            stream.close()  # as long as somebody reads, a sandbox that removes itself is kept
            end = next(ends)
        if end.reason and end.code and not self._interrupted:
            self._output.say(GuestError(f"{record.name} ended: {end.reason}"))
        with self._lock:
            del self._mine[index]
        return end.code

    def _start_one(self, index: int, record: Record) -> int:
        self._client.start(record.id)
        return 0

    def _fail(self, index: int, error: HyperError) -> int:
        """Say why one did not run, unless that was said of another; its exit code."""
        is_own = isinstance(error, GuestError | LostError)
        with self._lock:
            record = self._mine.get(index)
            self._closed = self._closed or not is_own
            reason = str(error).replace(record.name if record else "", "") if is_own else type(error).__name__
            is_new = not self._interrupted and reason not in self._said
            self._said.add(reason)
        if record and isinstance(error, BusyError):
            self._remove(record)
        if is_new:
            self._output.say(error)
        return exit_code(error)

    def _end(self, calls: list[Future[int | None]]) -> None:
        """Leave nothing of what is under way."""
        with self._lock:
            self._closed = self._interrupted = True
            mine = list(self._mine.values())
        wait(call_all(self._remove, mine))
        wait(calls)

    def _remove(self, record: Record) -> None:
        try:
            self._client.remove(record.id, force=True)
        except NotFoundError:
            pass  # it has removed itself
        except HyperError as exc:
            self._output.say(exc)


@contextmanager
def _signals_to(take: Callable[[int], None]) -> Iterator[None]:
    """Hand Ctrl-C, SIGTERM and SIGHUP to ``take`` while the context lasts; a third one ends this command at once."""
    seen: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        take(number)
        if len(seen) == 2:  # `timeout` sends the first one twice
            restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


def _highest(codes: Sequence[int | None]) -> int:
    return max(code for code in codes if code is not None)
