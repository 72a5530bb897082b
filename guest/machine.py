"""The machine: mounts, loopback, identity, figures, power."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import time
from typing import Any, NoReturn

from guest import kernel_calls

#: Where the image's root is, seen from the agent.
IMAGE = "/image"
#: Where the image's disk is, and where what is written goes: ``upper`` in there is the image's writable layer.
LOWER, SCRATCH = "/lower", "/scratch"
#: The boot id that the image sees.
_BOOT_ID = f"{SCRATCH}/boot_id"
#: Process 1's standard error is the console.
CONSOLE = 2

#: What is mounted at boot: source, target, type, options. /dev is there already: the initial RAM disk mounts it.
_SYSTEM_MOUNTS = (
    ("proc", "/proc", "proc", "nosuid,nodev,noexec"),
    ("sys", "/sys", "sysfs", "nosuid,nodev,noexec"),
    ("devpts", "/dev/pts", "devpts", "nosuid,noexec,gid=5,mode=620,ptmxmode=666"),
    # favordynmods: who moves a process need not wait for all processors (Documentation/admin-guide/cgroup-v2.rst).
    ("cgroup", "/sys/fs/cgroup", "cgroup2", "nosuid,nodev,noexec,favordynmods"),
    ("shm", "/dev/shm", "tmpfs", "nosuid,nodev,mode=1777"),
    ("scratch", SCRATCH, "tmpfs", "mode=755"),
    ("/dev/vdb", LOWER, "erofs", "ro"),
)
#: The image's root: a writable layer over its disk. The boundary is the virtual machine, so it sees the machine's /dev.
_IMAGE_MOUNTS = (
    ("image", IMAGE, "overlay", f"lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work"),
    ("proc", f"{IMAGE}/proc", "proc", "nosuid,nodev,noexec"),
    ("sys", f"{IMAGE}/sys", "sysfs", "nosuid,nodev,noexec"),
    ("/dev", f"{IMAGE}/dev", "", "bind,rec"),
    (_BOOT_ID, f"{IMAGE}/proc/sys/kernel/random/boot_id", "", "bind"),
)
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

_SIOCSIFFLAGS = 0x8914  # <linux/sockios.h>
_IFF_UP_RUNNING = 0x1 | 0x40  # <linux/if.h>
_RNDADDENTROPY = 0x40085203  # <linux/random.h>
_RNDRESEEDCRNG = 0x5207
_MIN_ENTROPY = 32
_MAX_FILES = 65536


def say(text: str) -> None:
    """One line on the console, which is what people read when a sandbox did not come up."""
    os.write(CONSOLE, f"hyper: {text}\n".encode())


def mount_system() -> None:
    """Mount what the agent needs, and the image's disk."""
    _mount_all(_SYSTEM_MOUNTS)
    for name, target in _DEV_LINKS.items():
        os.symlink(target, f"/dev/{name}")


def raise_limits() -> None:
    """Open files of the agent and of all it starts: the kernel's default of 1024 is few for both."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))


def load_modules(folder: str) -> None:
    """Load the kernel modules that the system image has in a folder, in the order of their names."""
    for name in sorted(os.listdir(folder)):
        kernel_calls.load_module(f"{folder}/{name}")


def mount_image() -> None:
    """Put a writable layer over the image's disk and the kernel's file systems into it."""
    # Made in the upper layer, before the overlay exists: an image need not have them, or may have links there.
    for path in ("work", "upper", "upper/proc", "upper/sys", "upper/dev"):
        os.mkdir(f"{SCRATCH}/{path}")
    if not os.path.isdir(f"{LOWER}/tmp"):
        os.mkdir(f"{SCRATCH}/upper/tmp")
        os.chmod(f"{SCRATCH}/upper/tmp", 0o1777)
    renew_boot_id()
    _mount_all(_IMAGE_MOUNTS)


def start_loopback() -> None:
    """Bring the loopback interface up: Jupyter kernels listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def limit_scratch(mib: int) -> None:
    """Let the image's writable layer take so much memory at most; 0 leaves half of the memory, the kernel's default."""
    if mib:
        kernel_calls.mount("scratch", SCRATCH, "tmpfs", f"remount,size={mib}m")


def add_entropy(data: bytes) -> None:
    """Feed the kernel's random generator and make it use that at once.

    SECURITY: clones of one template share its state, and would hand out the same keys; see random(4).

    :raise ValueError: fewer than 32 bytes.
    """
    if len(data) < _MIN_ENTROPY:
        raise ValueError(f"{len(data)} bytes of entropy are too few: {_MIN_ENTROPY} are needed")
    fd = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RNDADDENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)


def renew_boot_id() -> None:
    """Give the image another boot id, in the place of the kernel's, which is drawn once: clones would share it."""
    with open("/proc/sys/kernel/random/uuid", encoding="ascii") as fresh, open(_BOOT_ID, "w", encoding="ascii") as file:
        file.write(fresh.read())


def set_clock(time_ns: int) -> None:
    """Set the wall clock."""
    time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)


def read_memory() -> dict[str, int]:
    """What /proc/meminfo says, in bytes."""
    memory = {}
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            memory[name] = int(value.split()[0]) * 1024
    return memory


def read_figures() -> dict[str, Any]:
    """Memory, scratch space, processes, uptime: the reply to ``stats``."""
    memory = read_memory()
    scratch = os.statvfs(SCRATCH)
    with open("/proc/uptime", encoding="ascii") as uptime:
        uptime_s = float(uptime.read().split()[0])
    return {
        "mem_total": memory["MemTotal"],
        "mem_available": memory["MemAvailable"],
        "scratch_total": scratch.f_blocks * scratch.f_frsize,
        "scratch_free": scratch.f_bavail * scratch.f_frsize,
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "uptime_s": uptime_s,
    }


def power_off() -> NoReturn:
    """Sync, end every process and switch the machine off; does not return."""
    os.sync()
    with contextlib.suppress(ProcessLookupError):  # process 1 is alone
        os.kill(-1, signal.SIGKILL)
    os.sync()
    kernel_calls.power_off()


def _mount_all(table: tuple[tuple[str, str, str, str], ...]) -> None:
    for source, target, kind, options in table:
        if not os.path.exists(target):
            os.mkdir(target)
        kernel_calls.mount(source, target, kind, options)
