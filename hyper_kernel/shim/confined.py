"""A shim gives up its rights: in part before it starts its machine, and nearly all once it has a guest."""

import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from hyper_kernel.host.cgroup import find_cpu_limit
from hyper_kernel.host.confine import confine_after_start, confine_before_start
from hyper_kernel.host.landlock import Walls
from hyper_kernel.hypervisor import Hypervisor, Machine, MachineConfig, Ram
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.record import Record
from hyper_kernel.sandbox.source import Guest, OnEvent, Source
from hyper_kernel.spec import LIVE

log = logging.getLogger(__name__)

#: What Python reads of the system when it loads a module or tells the time, and devices that are no danger.
_SYSTEM = tuple(map(Path, ("/usr/lib", "/usr/share/zoneinfo", "/etc/localtime", "/etc/ld.so.cache", "/proc")))
_DEVICES = (Path("/dev/null"), Path("/dev/urandom"))


class ConfinedHypervisor:
    """A hypervisor whose process gives up, before the first machine, what starting machines does not take.

    Not earlier: making an image's disk takes more, and is done when a machine is planned.

    :param hypervisor: starts the machines.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._is_confined = False

    def build(self) -> str:
        """See :class:`hyper_kernel.hypervisor.Hypervisor`."""
        return self._hypervisor.build()

    def start(
        self, config: MachineConfig, folder: Path, ram: Ram | None = None
    ) -> AbstractAsyncContextManager[Machine]:
        """See :class:`hyper_kernel.hypervisor.Hypervisor`."""
        if not self._is_confined:
            confine_before_start()
            self._is_confined = True
        return self._hypervisor.start(config, folder, ram)


class ConfinedSource:
    """A source whose process is walled in once it has given a guest: before it hears of that guest's programs.

    :param source: gives the guest.
    :param plan: says what stays open, by the guest's process.
    """

    def __init__(self, source: Source, plan: Callable[[int], Walls]) -> None:
        self._source = source
        self._plan = plan

    @asynccontextmanager
    async def start(
        self, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None = None
    ) -> AsyncIterator[Guest]:
        """See :class:`hyper_kernel.sandbox.source.Source`."""
        async with self._source.start(config, folder, on_event, kernel) as guest:
            # SECURITY: from here on the shim parses what a user's code says. If that gets the better of it, it can
            # start nothing, and change nothing but its own sandbox's files.
            tempfile.tempdir = str(folder)
            if not confine_after_start(self._plan(guest.machine.pid)):
                log.warning("this host's kernel has no Landlock: this process's files are not walled in")
            yield guest


def plan_walls(paths: Paths, record: Record, parked: Path | None, pid: int) -> Walls:
    """What a shim needs of the file system once its guest is there.

    :param parked: the folder in which its machine was parked, if it was.
    :param pid: its machine's process.
    """
    spec, run = record.spec, paths.sandbox_run(record.id)
    kernel = spec.kernel
    notebooks = (Path(kernel.folder),) if kernel and kernel.folder and kernel.files not in LIVE else ()
    cgroup = (limit.parent,) if (limit := find_cpu_limit(pid)) else ()
    channels = (paths.channels("").parent,) if spec.kernel else ()
    return Walls(
        readable=(*find_python(), *_SYSTEM, *_DEVICES, *notebooks),
        writable=(paths.sandboxes / record.id, run, *channels, *filter(None, [parked]), *cgroup),
        emptied=(run.parent, *(folder.parent for folder in (parked, *cgroup) if folder)),
    )


def find_python() -> tuple[Path, ...]:
    """Where this Python loads modules from; never a folder that a home folder is below of."""
    folders = {Path(name).resolve() for name in (sys.prefix, sys.base_prefix, *filter(None, sys.path))}
    return tuple(sorted(folder for folder in folders if not Path.home().is_relative_to(folder)))
