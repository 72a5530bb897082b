"""The few system calls that Python's standard library has no function for."""

import ctypes
import os
from typing import NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_FINIT_MODULE = 313  # x86-64, <asm/unistd_64.h>
_CLONE_FS = 0x200  # <linux/sched.h>
_FLAGS = {"ro": 0x1, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "remount": 0x20, "bind": 0x1000, "rec": 0x4000}


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """mount(2); known ``options`` (see ``<linux/mount.h>``) become flags, the others go to the file system.

    :raise OSError: the kernel refuses.
    """
    flags, data = 0, []
    for option in filter(None, options.split(",")):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), ",".join(data).encode()),
        f"mount {kind} on {target}",
    )


def load_module(path: str) -> None:
    """finit_module(2).

    :raise OSError: the kernel refuses; a module that is loaded already is fine.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syscall(ctypes.c_long(_SYS_FINIT_MODULE), fd, b"", 0), f"load the module {path}")
    except FileExistsError:
        pass
    finally:
        os.close(fd)


def leave_shared_root() -> None:
    """unshare(2) with CLONE_FS: root and working folder of this thread are its own from here on.

    :raise OSError: the kernel refuses.
    """
    _check(_libc.unshare(_CLONE_FS), "unshare the root folder")


def power_off() -> NoReturn:
    """reboot(2) with RB_POWER_OFF: does not return, and loses what is not synced."""
    _check(_libc.reboot(0x4321FEDC), "power off")
    raise AssertionError("the machine is off")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
