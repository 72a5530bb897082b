"""Sizes and times that bound a sandbox, and how people write them."""

import re

from hyper_kernel.errors import RequestError

#: Below this Debian's generic kernel, the system image and a Python process do not fit.
MIN_MEMORY_MIB = 192
MAX_MEMORY_MIB = 64 * 1024
MAX_CPUS = 16
DEFAULT_MEMORY_MIB = 512
DEFAULT_CPUS = 1
#: How long a guest may take from power-on to the agent's hello, in seconds; software emulation on a busy host is slow.
BOOT_DEADLINE_S = 90.0
#: Bytes kept of a guest's console and of each log.
MAX_CONSOLE = 1 << 20
MAX_LOG = 64 << 20
#: Clones that one may ask to keep ready of one kind of machine.
MAX_KEPT = 64
#: What may be copied of a notebook's folder into a sandbox.
MAX_COPY_BYTES = 128 << 20
MAX_COPY_FILES = 10_000
#: Sandboxes of one user that may live at once.
MAX_LIVE = 1000
#: Starts under way at once for each usable processor. With two each, a hundred starts took a tenth more CPU time: they
#: push each other, and the programs that run already, out of the processors' caches.
STARTS_PER_CPU = 1
#: What a sandbox takes of the host's memory until its program runs, in bytes; guests touch the rest later, or never.
FIRST_BYTES = 96 << 20
#: What a start leaves free of the host's memory, and of a cgroup's: this, or a twentieth where that is more; on small
#: hosts no more than a quarter.
RESERVE_BYTES = 1 << 30

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_bytes(text: str) -> int:
    """A size as Docker writes it (``512m``, ``1g``, ``1.5GiB``) in bytes.

    :raise RequestError: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgb]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise RequestError(f"{text!r} is not a size", hint="write it like 512m or 2g")
    return int(float(match[1]) * _UNITS[match[2]])


def check_machine(memory_mib: int, cpus: int) -> None:
    """Refuse a machine that cannot boot or that no host has.

    :raise RequestError: names the limit.
    """
    if not MIN_MEMORY_MIB <= memory_mib <= MAX_MEMORY_MIB:
        raise RequestError(
            f"memory of {memory_mib} MiB is outside {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB",
            hint=f"ask for at least {MIN_MEMORY_MIB} MiB: below that the guest does not boot",
        )
    if not 1 <= cpus <= MAX_CPUS:
        raise RequestError(f"{cpus} CPUs is outside 1 to {MAX_CPUS}")
