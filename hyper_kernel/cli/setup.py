"""``hyper setup``: make all that sandboxes start from, showing what is going on."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hyper_kernel.cli.template import bake_for
from hyper_kernel.host.packages import check_packages
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.rootfs.guest import build_guest, get_guest
from hyper_kernel.rootfs.image import build_image, check_kernel
from hyper_kernel.rootfs.recipe import find_recipes, read_recipe
from hyper_kernel.sandbox.plan import find_tier
from hyper_kernel.spec import DEFAULT_IMAGE

_MIB = 1 << 20


class Report(Protocol):
    """Told what is going on: what, and bytes done and in all where they are known."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to set up; ``run`` returns what is there now, in a few words, and reports only where it works."""

    title: str
    run: Callable[[Report], str]


def setup(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Build again what is there, which takes in Debian's updates.")
    ] = False,
) -> None:
    """Build the guest and the base image, and install the kernelspec; instant where nothing has changed."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that it cleans up behind it
    run_steps(plan_steps(find_paths(), refresh=refresh), Console(stderr=True))


def plan_steps(paths: Paths, *, refresh: bool) -> list[Step]:
    """What to set up, in order.

    :param refresh: build again what is there.
    """

    def host(report: Report) -> str:
        check_packages()
        return "all installed"

    def guest(report: Report) -> str:
        files = build_guest(paths, report, refresh=refresh)
        return (
            f"{files.version}, {_size(sum(path.stat().st_size for path in (files.kernel, files.initrd, files.system)))}"
        )

    def isolation(report: Report) -> str:
        if not paths.tier.exists():
            report("booting a machine to see what the processor offers")
        verdict = asyncio.run(find_tier(paths, get_guest(paths)))
        return f"{verdict.tier} ({verdict.reason})"

    def image(report: Report) -> str:
        built = build_image(ImageStore(paths.images), read_recipe(find_recipes() / "python"), report, refresh=refresh)
        return f"{built.names[0]}, {_size(built.size)}"

    def disk(report: Report) -> str:
        store = ImageStore(paths.images)
        built = store.get(read_recipe(find_recipes() / "python").name)
        if not store.has_disk(built):
            report("unpacking the image")
        kernel = check_kernel(store, built)
        return f"{_size(built.disk.stat().st_size)}, kernel {kernel}"

    def template(report: Report) -> str:
        built = ImageStore(paths.images).get(DEFAULT_IMAGE)
        baked = asyncio.run(bake_for(paths, built, DEFAULT_MEMORY_MIB, DEFAULT_CPUS, report))
        return ", ".join(f"{one.key[:12]} ({_size(one.memory_bytes)})" for one in baked)

    def spec(report: Report) -> str:
        return str(kernelspec.install())

    return [
        Step(title="Debian packages", run=host),
        Step(title="guest kernel and system image", run=guest),
        Step(title="isolation", run=isolation),
        Step(title="base image", run=image),
        Step(title="disk of the base image", run=disk),
        Step(title="templates", run=template),
        Step(title="Jupyter kernelspec", run=spec),
    ]


def run_steps(steps: list[Step], console: Console) -> None:
    """Run steps one after another; prints a line for each, and on a terminal a bar while it runs.

    :raise HyperError: a step failed; the ones before it are done and stay.
    """
    for step in steps:
        began = time.monotonic()
        with _shown(step.title, console) as shown:
            result = step.run(shown)
        state = "done in" if shown.worked else "ready,"
        line = f"  {step.title}: {result} ({state} {_duration(time.monotonic() - began)})"
        console.print(line, highlight=False, soft_wrap=True)


class _Lines:
    """Shows reports as lines, each thing once: for logs, which so tell where time went."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console, self._last = title, console, ""

    @property
    def worked(self) -> bool:
        """Whether there was anything to do."""
        return bool(self._last)

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is going on, unless it was shown last."""
        if what != self._last:
            size = f" ({_size(total)})" if total else ""
            self._console.print(f"  {self._title}: {what}{size} ...", highlight=False, soft_wrap=True)
        self._last = what


class _Bar(_Lines):
    """Shows reports as a bar on a terminal: it fills where sizes are known, and else moves."""

    def __init__(self, title: str, progress: Progress) -> None:
        super().__init__(title, progress.console)
        self._progress, self._task = progress, progress.add_task(title, total=None)

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is going on and how far it is."""
        self._last = what
        size = f" {_size(done)} of {_size(total)}" if total else ""
        description = f"{self._title}: {what}{size}"
        self._progress.update(self._task, description=description, completed=done, total=total or None)


@contextmanager
def _shown(title: str, console: Console) -> Iterator[_Lines]:
    """What shows the reports of one step on this console."""
    if not console.is_terminal:
        yield _Lines(title, console)
        return
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(title, progress)


def _size(count: int) -> str:
    return f"{count / _MIB:.0f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
