"""Walls around this process's files, by Landlock; see landlock(7). Later versions of it know more."""

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# <asm/unistd_64.h> and <linux/landlock.h>
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 7, 1 << 8, 1 << 9
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
#: All rights over files that a version knows; a later one than these is used as the last of them.
_KNOWN = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16}
_CONNECT_TCP, _ABSTRACT_SOCKETS = 1 << 1, 1 << 0
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What of the file system stays open, with all that is below; links are followed first. Nothing can be executed.

    :ivar readable: may be read.
    :ivar writable: may be read and changed.
    :ivar emptied: folders may be removed from there.
    """

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    emptied: tuple[Path, ...] = ()


def find_version() -> int:
    """Which Landlock this host's kernel has; 0 for none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def wall_in(walls: Walls) -> bool:
    """Restrict the only thread of this process, and what it starts from here on, for good; whether that was possible.

    Nor can it dial TCP ports (version 4) or abstract sockets (6), or look into processes outside the walls.

    :raise OSError: the kernel has Landlock and refuses.
    """
    version = find_version()
    if version == 0:
        return False
    # SECURITY: other threads would stay outside the walls.
    assert len(os.listdir("/proc/self/task")) == 1, "other threads run"
    handled = (1 << _KNOWN[min(version, max(_KNOWN))]) - 1
    words = (handled, _CONNECT_TCP, _ABSTRACT_SOCKETS)[: 3 if version >= 6 else 2 if version >= 4 else 1]
    ruleset = _call(_CREATE_RULESET, struct.pack(f"{len(words)}Q", *words), ctypes.c_size_t(8 * len(words)), 0)
    try:
        for paths, rights in ((walls.readable, _READ), (walls.writable, _WRITE), (walls.emptied, _REMOVE_DIR)):
            _allow(ruleset, paths, rights & handled)
        _call_prctl()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = rights if stat.S_ISDIR(os.fstat(fd).st_mode) else rights & _OF_FILES
                _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0)
            finally:
                os.close(fd)


def _call(*words: object) -> int:
    result = int(_libc.syscall(*words))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _call_prctl() -> None:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno() or errno.EPERM, "no_new_privs is refused")
