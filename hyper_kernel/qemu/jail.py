"""What QEMU gets in its jail: read-only files of the system, a few calls of the kernel, and limits."""

import functools
import resource
import shutil
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.jail import Jail
from hyper_kernel.host.seccomp import Call, allow_only
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.qemu.argv import BINARY

#: Where Debian has libraries, and QEMU's own modules below.
_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
_FIRMWARE = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
#: The loader is named by each program as /lib64/ld-linux-x86-64.so.2.
_LINKS = (("usr/lib", "/lib"), (str(_LIBRARIES).lstrip("/"), "/lib64"))
_DEVICES = {Tier.SOFTWARE: (), Tier.HARDWARE: (Path("/dev/kvm"),)}

#: Threads: one for each processor, sixty-four at most that read disks, and QEMU's own.
_TASKS = 64 + 32
#: QEMU's address space besides a machine's memory: a gigabyte of translated code, stacks, heaps, libraries.
_ADDRESSES = 8 << 30
#: Memory that QEMU needs besides the machine's: with emulation, a gigabyte of translated code.
_OVERHEAD = {Tier.SOFTWARE: 1280 << 20, Tier.HARDWARE: 256 << 20}
#: The saved state of a machine's devices is a tenth of this; nothing else is written to files.
_LARGEST_FILE = 16 << 20
_FILES = 512

#: Each of these was seen in a trace of QEMU's, or is its libraries' second way to do such a thing.
_CALLS = """
    read write readv writev pread64 pwrite64 preadv pwritev lseek close
    openat open access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs readlink readlinkat
    getdents64 getcwd fchdir fadvise64 fcntl dup dup2 dup3 fsync fdatasync pipe2
    poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 signalfd4
    sendmsg recvmsg sendto recvfrom shutdown getsockopt setsockopt getsockname getpeername
    mmap munmap mprotect mremap madvise brk membarrier
    futex set_robust_list get_robust_list rseq set_tid_address arch_prctl gettid getpid getppid
    getuid geteuid getgid getegid sched_yield sched_getaffinity
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigpending sigaltstack tgkill restart_syscall
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrusage uname sysinfo getrandom
    execve exit exit_group seccomp
"""
_THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND of <linux/sched.h>
_NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW*
_PRCTL = (15, 29, 33, 38)  # <linux/prctl.h>: PR_SET_NAME, PR_SET_TIMERSLACK, PR_MCE_KILL, PR_SET_NO_NEW_PRIVS
_IOCTL_KVM, _IOCTL_VHOST, _IOCTL_KIND = (
    0xAE00,
    0xAF00,
    0xFF00,
)  # KVMIO and VHOST_VIRTIO of <linux/kvm.h>, <linux/vhost.h>


def qemu_jail(config: MachineConfig) -> Jail:
    """The jail for a machine.

    :raise HostError: QEMU is not installed.
    """
    binary = shutil.which(BINARY)
    if binary is None:
        raise HostError(f"{BINARY} is not installed", hint="run: hyper doctor")
    memory = (config.memory_mib << 20) + _ADDRESSES
    return Jail(
        # Resolved: /bin is a link to /usr/bin, and QEMU finds its firmware from where it is itself.
        readable=(Path(binary).resolve(), _LIBRARIES, *_FIRMWARE),
        links=_LINKS,
        devices=(Path("/dev/null"), *_DEVICES[config.tier]),
        syscalls=qemu_syscalls(),
        limits=(
            (resource.RLIMIT_CORE, 0),  # SECURITY: a core file would hold the guest's memory
            (resource.RLIMIT_NOFILE, _FILES),
            (resource.RLIMIT_FSIZE, _LARGEST_FILE),
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ),
        tasks=config.cpus + _TASKS,
        memory_bytes=(config.memory_mib << 20) + _OVERHEAD[config.tier],
    )


@functools.cache
def qemu_syscalls() -> bytes:
    """The filter of QEMU's system calls; what QEMU's own ``-sandbox`` refuses comes on top.

    :raise HostError: libseccomp is not installed.
    """
    # SECURITY: no socket, no file made or renamed, no other process reached, no namespace, no key, no trace.
    calls = [Call(name) for name in _CALLS.split()]
    calls.append(Call("clone", 0, _THREAD, _THREAD | _NAMESPACES))
    calls.append(Call("prlimit64", 2, 0))  # limits are read, not set
    calls += [Call("prctl", 0, option) for option in _PRCTL]
    calls += [Call("ioctl", 1, kind, _IOCTL_KIND) for kind in (_IOCTL_KVM, _IOCTL_VHOST)]
    return allow_only(calls)
