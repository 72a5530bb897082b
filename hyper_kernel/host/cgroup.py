"""Cgroups of version 2, where this process may make some: bounds that hold for all that a process does.

Source: the kernel's Documentation/admin-guide/cgroup-v2. A cgroup that has processes of its own cannot hand
controllers down (but for the root), so the nearest one above us that has none is where ours are made.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyper_kernel.errors import HostError

MOUNT = Path("/sys/fs/cgroup")
_NEEDED = frozenset({"memory", "pids"})
_WELCOME = _NEEDED | {"cpu"}
_PREFIX = "hyper-"
#: What a share of a processor is counted in, in microseconds.
_PERIOD_US = 100_000


def find_base(proc: Path = Path("/proc"), mount: Path = MOUNT) -> Path | None:
    """The nearest cgroup, from our own upwards, in which we may make cgroups with bounds; None where there is none."""
    own = next((line[3:] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    path = Path(own.lstrip("/"))
    return next((mount / part for part in (path, *path.parents) if own and _hands_down(mount / part)), None)


@contextmanager
def hold_in_cgroup(pid: int, *, memory_bytes: int, tasks: int, base: Path | None) -> Iterator[None]:
    """Bound a process and all that it starts; without a base nothing is done, and limits of processes must do.

    :param pid: the process. It must have ended when the context does.
    :param memory_bytes: more than that, and the kernel ends it.
    :param tasks: processes and threads at once.
    :param base: see :func:`find_base`.
    :raise HostError: the cgroup refuses it.
    """
    if base is None:
        yield
        return
    sweep(base)
    folder = base / f"{_PREFIX}{pid}"
    try:
        _bound(folder, {"memory.max": memory_bytes, "pids.max": tasks, "cgroup.procs": pid})
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not quite empty yet: the next one sweeps it
            folder.rmdir()


def find_cpu_limit(pid: int, mount: Path = MOUNT, proc: Path = Path("/proc")) -> Path | None:
    """The file that bounds the processor time of a process in a cgroup of ours; None where there is none."""
    with contextlib.suppress(OSError):
        for line in (proc / str(pid) / "cgroup").read_text().splitlines():
            limit = mount / line[3:].lstrip("/") / "cpu.max"
            if line.startswith("0::") and limit.parent.name == f"{_PREFIX}{pid}" and limit.exists():
                return limit
    return None


def cpu_words(percent: int) -> str:
    """What ``cpu.max`` takes for a percentage of one processor; 0 for no bound."""
    return f"{percent * _PERIOD_US // 100 if percent else 'max'} {_PERIOD_US}"


def sweep(base: Path) -> None:
    """Remove cgroups of ours whose process has ended without anybody there to do so."""
    for folder in base.glob(f"{_PREFIX}*"):
        if not Path("/proc", folder.name.removeprefix(_PREFIX)).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _bound(folder: Path, settings: dict[str, int]) -> None:
    try:
        folder.mkdir(exist_ok=True)
        for name, value in settings.items():
            (folder / name).write_text(str(value))
    except ProcessLookupError:
        pass  # the process has ended already; who started it will find out
    except OSError as exc:
        raise HostError(f"a machine cannot be bounded by the cgroup {folder}: {exc}", hint="run: hyper doctor") from exc


def _hands_down(folder: Path) -> bool:
    """Whether cgroups made in a folder get the controllers; switches that on where it can be."""
    control = folder / "cgroup.subtree_control"
    try:
        offered = set((folder / "cgroup.controllers").read_text().split())
        if not offered >= _NEEDED or not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
            return False
        if missing := (offered & _WELCOME) - set(control.read_text().split()):
            control.write_text(" ".join(f"+{name}" for name in sorted(missing)))
        return True
    except OSError:  # EBUSY: it has processes of its own
        return False
