"""Machines started in this process, past hyperd and shims: what a clone of a template takes."""

import logging
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

from hyper_kernel.hypervisor import MachineConfig, Ram
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_boot, plan_image, plan_shapes
from hyper_kernel.sandbox.source import ColdSource, Guest
from hyper_kernel.spec import DEFAULT_IMAGE
from hyper_kernel.template.source import find_template
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end
from tests.performance.home import open_home
from tests.performance.rounds import Figures, Setting, in_turn
from tests.performance.table import Aim, Row
from tests.performance.watch import find_steps

#: The steps of a clone, as the source logs them, and what they are.
_STEPS = {
    "start the hypervisor": "QEMU starts, and restores the machine",
    "plug vsock": "its vsock is plugged in, and its processor runs",
    "meet the agent": "its agent answers",
}


class Cloner:
    """Starts clones of the template in which the default image's kernel runs, as shims do; made by :meth:`open`.

    :param machine: what they are.
    :param image: the image's part of their resync.
    :param ram: the template, loaded.
    """

    def __init__(self, machine: MachineConfig, image: dict[str, Any], ram: Ram) -> None:
        self._machine = machine
        self._image = image
        self._ram = ram
        self._boots = ColdSource(Qemu(), open_end)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[tuple[Self, float]]:
        """One, and how long it took to load the template, in milliseconds: the shims' warm parent does that once."""
        paths, size = find_paths(), {"memory_mib": DEFAULT_MEMORY_MIB, "cpus": DEFAULT_CPUS}
        images, templates = ImageStore(paths.images), TemplateStore(paths.templates)
        image = images.get(DEFAULT_IMAGE)
        machine = await plan_boot(paths, image, name="bench", **size)
        template = find_template(templates, machine, Qemu().build(), plan_shapes(images, image, **size)[-1].kernel)
        assert template
        began_s = time.perf_counter()
        with templates.load(template) as ram:
            yield cls(machine, plan_image(image.config), ram), (time.perf_counter() - began_s) * 1000

    @asynccontextmanager
    async def start(self) -> AsyncIterator[tuple[Guest, Figures]]:
        """A clone whose agent has said hello; how long that took, in milliseconds, in all and by steps."""
        with tempfile.TemporaryDirectory() as folder, _steps_ms() as steps:
            began_s = time.perf_counter()
            async with self._boots.start(self._machine, Path(folder), lambda event: None, ram=self._ram) as guest:
                yield guest, {"all": (time.perf_counter() - began_s) * 1000, **steps}

    async def resync(self, guest: Guest) -> None:
        """Have a clone serve."""
        await guest.agent.resync(hostname="bench", scratch_mib=DEFAULT_MEMORY_MIB // 2, image=self._image)


async def clone(setting: Setting) -> list[Row]:
    """From nothing to the hello of the agent in a clone."""

    async def measure() -> Figures:
        async with Cloner.open() as (cloner, loaded_ms), cloner.start() as (_, took_ms):
            return {"loaded": loaded_ms, **took_ms}

    with open_home(setting.data):
        found = await in_turn(setting.runs, {"": measure})
    return [
        Row(what="a clone, from nothing to its agent's hello", unit="ms", hyper=found.values("", "all"), aim=Aim(150)),
        *(Row(what=what, unit="ms", hyper=found.values("", step), is_detail=True) for step, what in _STEPS.items()),
        Row(what="once, before the first: reading the template", unit="ms", hyper=found.values("", "loaded")),
    ]


@contextmanager
def _steps_ms() -> Iterator[dict[str, float]]:
    """How long each step took that is logged meanwhile."""
    steps: dict[str, float] = {}
    log, handler = logging.getLogger("hyper_kernel.sandbox.source"), logging.Handler()
    handler.emit = lambda record: steps.update(find_steps(record.getMessage()))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield steps
    finally:
        log.removeHandler(handler)
