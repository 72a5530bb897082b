"""Filters of system calls, compiled by libseccomp, on which QEMU depends as well.

A filter is plain bytes (an array of the kernel's ``struct sock_filter``): to be handed to a jail, or installed here.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hyper_kernel.errors import HostError

# <seccomp.h> of libseccomp 2.5: actions, attributes, comparison.
_ALLOW = 0x7FFF0000
_ANSWER = 0x00050000  # plus an errno
_ATTRIBUTE_BAD_ARCH, _ATTRIBUTE_OPTIMIZE = 2, 8
_BINARY_TREE = 2
_MASKED_EQUAL = 7
_UNKNOWN = -1
#: <linux/seccomp.h>: for all threads of the process.
_SECCOMP, _SET_MODE_FILTER, _TSYNC = 317, 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call by its name, and where ``index`` is given only with such an argument.

    :param index: which of its arguments.
    :param value: what the argument is, as far as ``mask`` has bits.
    """

    name: str
    index: int = -1
    value: int = 0
    mask: int = (1 << 64) - 1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    """``struct sock_fprog`` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def allow_only(calls: Iterable[Call], pretended: Iterable[Call] = ()) -> bytes:
    """A filter that lets these pass and answers ``ENOSYS`` to all others, so that libraries take another way.

    :param pretended: what a program insists on and does not need: answered as if it were done.
    :raise HostError: libseccomp is not installed.
    """
    # SECURITY: what nobody has thought of, and what kernels to come will bring, is refused.
    return _compile(_ANSWER | errno.ENOSYS, {_ALLOW: calls, _ANSWER: pretended})


def refuse(calls: Iterable[Call]) -> bytes:
    """A filter that answers ``ENOSYS`` to these and lets all others pass, also those that libseccomp does not know.

    :raise HostError: libseccomp is not installed.
    """
    return _compile(_ALLOW, {_ANSWER | errno.ENOSYS: calls})


def install(program: bytes) -> None:
    """Filter the calls of this process, all its threads and all that it will start, for good.

    :raise OSError: the kernel refuses.
    """
    fprog = _Program(len(program) // 8, program)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.syscall(
        _SECCOMP, _SET_MODE_FILTER, _TSYNC, ctypes.byref(fprog)
    ):
        raise OSError(ctypes.get_errno(), "the filter of system calls is refused")


def _compile(default: int, rules: Mapping[int, Iterable[Call]]) -> bytes:
    library = _load()
    context = library.seccomp_init(default)
    try:
        # SECURITY: calls of other architectures (int 0x80, x32) have other numbers, and would pass by the rules.
        _check(library.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCH, _ANSWER | errno.ENOSYS))
        _check(library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE))
        for action, call in ((action, call) for action, calls in rules.items() for call in calls):
            number = library.seccomp_syscall_resolve_name(call.name.encode())
            if number != _UNKNOWN:
                tests = (_Comparison(call.index, _MASKED_EQUAL, call.mask, call.value),) * (call.index >= 0)
                array = (_Comparison * len(tests))(*tests)
                _check(library.seccomp_rule_add_array(context, action, number, len(tests), array))
        with open(os.memfd_create("filter", os.MFD_CLOEXEC), "rb") as file:
            _check(library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _check(result: int) -> None:
    if result:
        raise HostError(f"libseccomp refuses a filter: {os.strerror(-result)}", hint="run: hyper doctor")


@functools.cache
def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as exc:
        raise HostError(f"libseccomp is not installed: {exc}", hint="run: make setup (or hyper doctor)") from exc
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library
