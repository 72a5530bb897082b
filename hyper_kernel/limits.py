"""Sizes and times that bound a sandbox, and how people write them."""

import math
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

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_bytes(text: str) -> int:
    """A size as Docker writes it (``512m``, ``1g``, ``1.5GiB``) in bytes.

    :raise RequestError: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgb]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise RequestError(f"{text!r} is not a size", hint="write it like 512m or 2g")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(text: str) -> float:
    """A time as Docker writes it (``90``, ``90s``, ``1.5h``, ``1h30m``) in seconds.

    :raise RequestError: it is not a time.
    """
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise RequestError(f"{text!r} is not a time", hint="write it like 90s or 1h30m")
    pieces = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def split_cpus(wanted: float, count: int = 0) -> tuple[int, int]:
    """From a number of processors to whole ones, ``count`` where that is given, and their share in per cent of one.

    The share is zero, as policy says, where there is no fraction.
    """
    cpus = count or math.ceil(wanted)
    return cpus, 0 if wanted in (0, cpus) else max(1, round(wanted * 100))


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
