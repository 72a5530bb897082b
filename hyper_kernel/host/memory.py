"""Memory: a guest's, as a descriptor without a name, and what is left of the host's."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.errors import HostError


@contextmanager
def open_memory(memory_mib: int) -> Iterator[int]:
    """A memfd for a guest's memory; QEMU re-opens it by /proc/self/fd.

    :raise HostError: the host refuses that much.
    """
    fd = os.memfd_create("hyper-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, memory_mib << 20)
        yield fd
    except OSError as exc:
        raise HostError(f"the host refuses {memory_mib} MiB of memory: {exc}", hint="ask for less --memory") from exc
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that this process draws on; ``name`` says whose limit it is ("this host", "cgroup /user.slice")."""

    name: str
    total_bytes: int
    available_bytes: int


def read_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[Memory, ...]:
    """The host's memory (MemAvailable in proc_meminfo(5)), then that of each cgroup around this process that limits it.

    Cgroups of version 1 are not read.
    """
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    sizes = {name: int(number) << 10 for name, number, *_ in rows}
    host = Memory(name="this host", total_bytes=sizes["MemTotal:"], available_bytes=sizes["MemAvailable:"])
    return (host, *_read_cgroups(proc, cgroups))


def read_oom_kills(proc: Path = Path("/proc")) -> int:
    """How often the host's kernel has killed for want of memory since it booted; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _read_cgroups(proc: Path, cgroups: Path) -> Iterator[Memory]:
    """Memory of our own cgroup and of those above it: the limit of each holds ("Memory" in the kernel's cgroup-v2)."""
    own = next((line[3:] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    path = Path(own.lstrip("/"))
    for part in (path, *path.parents) if own else ():
        folder = cgroups / part
        # No such file: memory is not counted there. "max", which is no number: there is no limit.
        with contextlib.suppress(OSError, ValueError):
            total = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            # File pages that nobody used lately count as used, but are given up for the asking.
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free = total - used + int(stat["inactive_file"])
            yield Memory(name=f"cgroup {Path('/') / part}", total_bytes=total, available_bytes=free)
