"""What a process gives up of its own rights, in two steps: before it starts a jailed program, and after."""

import ctypes
import os
import resource
import socket
import struct

from hyper_kernel.host.landlock import Walls, wall_in
from hyper_kernel.host.seccomp import Call, install, refuse

#: <linux/capability.h>: of root's powers, what starting a jailed program and reading it takes, and what is left then.
_DAC_OVERRIDE, _DAC_READ_SEARCH, _KILL, _SETGID, _SETUID, _SYS_PTRACE, _SYS_RESOURCE = 1, 2, 5, 6, 7, 19, 24
#: Without it nobody may be root, powerless, in a jail: for folders of root's that a guest sees live.
_SETFCAP = 31
TO_START = frozenset({_DAC_OVERRIDE, _DAC_READ_SEARCH, _KILL, _SETGID, _SETUID, _SYS_PTRACE, _SYS_RESOURCE, _SETFCAP})
#: Read the notebook's folder, whoever it belongs to; end the machine, which runs as another user.
TO_GO_ON = frozenset({_DAC_READ_SEARCH, _KILL})
_LAST_CAPABILITY = 63
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION = 0x20080522

#: No use for these is known to us, to bubblewrap or to QEMU.
_NEVER = """
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    keyctl add_key request_key bpf userfaultfd perf_event_open io_uring_setup io_uring_enter io_uring_register
    kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at name_to_handle_at
    reboot swapon swapoff acct quotactl quotactl_fd syslog iopl ioperm modify_ldt vhangup lookup_dcookie
    settimeofday clock_settime clock_adjtime adjtimex migrate_pages move_pages personality
"""
#: Nor for these once the jailed program runs: nothing is started or mounted any more.
_NO_LONGER = """
    execve execveat fork vfork clone3 unshare setns mount umount2 pivot_root chroot
    fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr mknod mknodat
    setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
"""
_TIOCSTI = 0x5412
_CLONE_THREAD = 0x00010000
#: Between processes, to programs that people run on this host, to guests.
_FAMILIES = frozenset({socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_VSOCK})
_LAST_FAMILY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def confine_before_start() -> None:
    """Give up what nobody needs who starts a jailed program; it, too, goes without.

    No core file, no gain of privileges by programs, of root's powers only ``TO_START``, and fewer calls of the kernel.

    :raise OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_capabilities(TO_START)
    install(refuse([*map(Call, _NEVER.split()), Call("ioctl", 1, _TIOCSTI)]))


def confine_after_start(walls: Walls) -> bool:
    """Give up what nobody needs whose jailed program runs: nothing can be started, mounted or looked into any more.

    :return: whether this host's kernel has walls for files.
    :raise OSError: the kernel refuses.
    """
    keep_capabilities(TO_GO_ON)
    calls = [*map(Call, _NO_LONGER.split()), Call("clone", 0, 0, _CLONE_THREAD)]
    calls += [Call("socket", 0, family) for family in range(_LAST_FAMILY + 1) if family not in _FAMILIES]
    program = refuse(calls)
    walled = wall_in(walls)
    install(program)
    return walled


def keep_capabilities(kept: frozenset[int]) -> None:
    """Of root's powers keep at most these, here and in all programs to come; an ordinary user has none.

    :raise OSError: the kernel refuses.
    """
    header, data = struct.pack("Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data))
    _, low, _, _, high, _ = struct.unpack("6I", data.raw)
    permitted = low | high << 32
    for capability in range(_LAST_CAPABILITY + 1):
        # Fails for those that this kernel does not know, and for an ordinary user, whom no_new_privs keeps as they are.
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    mask = permitted & sum(1 << capability for capability in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _check(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"capabilities: {os.strerror(ctypes.get_errno())}")
