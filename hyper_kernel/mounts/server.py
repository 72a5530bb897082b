"""A folder of the host, served to one guest by 9P2000.L: Debian's diod, in a jail that has nothing but that folder.

It is never to be reached but through a ``gate``; the jail is for what gets through there.
"""

import functools
import os
import re
import resource
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.errors import HostError, RequestError
from hyper_kernel.host.command import run_command
from hyper_kernel.host.jail import Identity, Jail, Shared, start_jailed
from hyper_kernel.host.seccomp import Call, allow_only
from hyper_kernel.wire import FOLDER

BINARY = "diod"
_LINKS = (("usr/lib", "/lib"), ("usr/lib64", "/lib64"))
#: Where Debian has diod, beside PATH: ordinary users have no sbin in theirs.
_SBIN = "/usr/sbin"
#: It has five threads, and no need of more: requests come one at a time.
_TASKS, _STACK = 16, 1 << 20
_FILES = 4096
_MEMORY = 128 << 20
_ADDRESSES = 1 << 30
#: The most that one file may become, so that a slip does not fill the disk at once.
_LARGEST_FILE = 16 << 30
_WORDS = 2000

#: Each was seen in a trace of diod's under git, SQLite and a tree of files, or is what its libraries try otherwise.
_CALLS = """
    read write readv writev pread64 pwrite64 preadv pwritev lseek close
    access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs
    readlink readlinkat getdents64 getcwd fcntl dup dup2 fsync fdatasync fallocate ftruncate truncate pipe2 pipe
    mkdir mkdirat link linkat unlink unlinkat rename renameat renameat2 rmdir
    utimensat chown fchown lchown fchownat umask
    poll ppoll select pselect6 eventfd2 sendmsg recvmsg sendto recvfrom shutdown getsockopt setsockopt
    getsockname getpeername
    mmap munmap mprotect mremap madvise brk futex set_robust_list get_robust_list rseq set_tid_address arch_prctl
    gettid getpid getppid getuid geteuid getgid getegid getgroups capget sched_yield sched_getaffinity
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack tgkill restart_syscall
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage uname sysinfo getrandom
    execve exit exit_group
"""
_PRETENDED = "setgroups setresuid setresgid setfsuid setfsgid prctl capset"
_THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND of <linux/sched.h>
_NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW*
_LIMITS = 16  # RLIM_NLIMITS of <asm-generic/resource.h>
_SETUID = stat.S_ISUID | stat.S_ISGID
#: Which argument of a call is the mode of what it makes or changes.
_MODES = {"open": 2, "openat": 3, "creat": 1, "chmod": 1, "fchmod": 1, "fchmodat": 2}


@dataclass(frozen=True, slots=True)
class Served:
    """A folder that is served to one client at ``sock``.

    ``pid`` is its server, ``words`` gives what that has said since last asked, ``wait`` waits until it has ended.
    """

    sock: socket.socket
    pid: int
    words: Callable[[], str]
    wait: Callable[[], Awaitable[int]]


@asynccontextmanager
async def serve_folder(folder: Path, *, read_only: bool) -> AsyncIterator[Served]:
    """Serve a folder to one client while the context lasts.

    As root, it is served with the rights of the folder's owner, who is nobody's superior in the jail; an ordinary
    user serves what is theirs.

    :raise RequestError: there is no such folder.
    :raise HostError: diod is not installed, or this host cannot make its jail.
    """
    try:
        folder = folder.resolve(strict=True)
        facts = folder.stat()
    except OSError as exc:
        raise RequestError(f"cannot share the folder {folder}: {exc.strerror}", hint="name one that is there") from exc
    if not stat.S_ISDIR(facts.st_mode):
        raise RequestError(f"cannot share {folder}: it is no folder", hint="name its folder")
    jail = plan_jail(folder, read_only=read_only)  # in no thread: walls go up only where there is none beside
    user = Identity(uid=facts.st_uid, gid=facts.st_gid)
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            # SECURITY: what it says goes into a pipe that is full at some time, whatever its client makes it say.
            said, output = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, said)
            words, fds = plan_argv(jail.readable[0], theirs.fileno(), read_only=read_only), (theirs.fileno(),)
            try:
                serving = start_jailed(jail, words, output=output, said=lambda: _read(said), pass_fds=fds, user=user)
                jailed = await stack.enter_async_context(serving)
            finally:
                os.close(output)
        ours.setblocking(False)
        yield Served(ours, jailed.pid, lambda: _read(said), jailed.wait)


def check_apart(folder: Path, own: Iterable[Path]) -> None:
    """Refuse a folder that has something of hyperd's own in it, or is in there.

    :param own: folders of hyperd's.
    :raise RequestError: it is one.
    """
    whole = folder.resolve()
    for place in (each.resolve() for each in own):
        # SECURITY: no guest sees the keys of kernels or the logs of others, or changes the policy that it is held to.
        if whole.is_relative_to(place) or place.is_relative_to(whole):
            raise RequestError(
                f"cannot share the folder {folder}: hyperd keeps its own files in {place}",
                hint="share a folder that is only for this",
            )


def plan_argv(binary: Path, fd: int, *, read_only: bool) -> list[str]:
    """The command that serves the client at a descriptor."""
    words = [str(binary), "--foreground", "--logdest", "stderr", "--config-file", "/dev/null"]
    # No credentials and no lists of users: whoever asks is the one user that there is.
    words += ["--no-auth", "--no-userdb"]
    # SECURITY: one thread for requests: two at once for the same file would corrupt its memory.
    words += ["--nwthreads", "1"]
    words += ["--export", FOLDER, *(["--export-opts", "ro"] if read_only else [])]
    return [*words, "--rfdno", str(fd), "--wfdno", str(fd)]


def plan_jail(folder: Path, *, read_only: bool) -> Jail:
    """The jail for the server of a folder.

    :raise HostError: diod is not installed.
    """
    binary = find_server()
    return Jail(
        # SECURITY: links in the folder lead here and no further. So there are its libraries alone, and no /proc, which
        # knows where the folder is, and by which it could be made to change its own memory.
        readable=(binary, *_find_libraries(binary)),
        has_proc=False,
        links=_LINKS,
        devices=(Path("/dev/null"),),
        syscalls=server_syscalls(),
        limits=(
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, _FILES),
            (resource.RLIMIT_FSIZE, _LARGEST_FILE),
            (resource.RLIMIT_AS, _ADDRESSES),
            (resource.RLIMIT_DATA, _MEMORY),
            (resource.RLIMIT_STACK, _STACK),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ),
        tasks=_TASKS,
        memory_bytes=_MEMORY,
        # SECURITY: nothing else of the host is in there, so whatever the guest makes of diod, it has no more than this.
        shared=(Shared(folder=folder, place=FOLDER, is_writable=not read_only),),
        # The guest sees the folder's files as its own root's: programs as git refuse others'.
        inner_uid=0,
    )


def find_server() -> Path:
    """The program that serves folders.

    :raise HostError: it is not installed.
    """
    if binary := shutil.which(BINARY, path=os.pathsep.join((os.environ.get("PATH", ""), _SBIN))):
        return Path(binary).resolve()
    raise HostError(f"live folders need {BINARY}, which is not installed", hint=f"as root: apt install {BINARY}")


def _find_libraries(binary: Path) -> tuple[Path, ...]:
    """What a program loads.

    :raise HostError: its loader does not say.
    """
    words = run_command(["ldd", str(binary)], hint="run: hyper doctor")
    found = {Path(name) for name in re.findall(r"(/\S+) \(0x", words)}
    return tuple(sorted(Path(os.path.realpath(path.parent)) / path.name for path in found))


@functools.cache
def server_syscalls() -> bytes:
    """The filter of the server's system calls.

    :raise HostError: libseccomp is not installed.
    """
    calls = [Call(name) for name in _CALLS.split()]
    calls.append(Call("clone", 0, _THREAD, _THREAD | _NAMESPACES))
    calls.append(Call("prlimit64", 1, resource.RLIMIT_STACK))
    # SECURITY: as the gate has it: no link, device, pipe or socket is made, and nothing that runs as its owner.
    calls += [Call(name, index, 0, _SETUID) for name, index in _MODES.items()]
    # Since its user is called root in there, diod would change to the user who asks, which is itself, and lift limits.
    pretended = [Call(name) for name in _PRETENDED.split()]
    others = (limit for limit in range(_LIMITS) if limit != resource.RLIMIT_STACK)
    pretended += [Call("prlimit64", 1, limit) for limit in others]
    return allow_only(calls, pretended)


def _read(fd: int) -> str:
    with suppress(BlockingIOError):
        return os.read(fd, _WORDS).decode(errors="replace")
    return ""
