"""A program that tries to break out of the jail it runs in: ``hyper doctor --selftest`` runs it in QEMU's place.

It stands alone (standard library, one file, given to Python by descriptor). Its argument is JSON: what there is on the
host to be got at, see ``selftest``. For each attempt it prints a line of JSON: what was tried, how it ended, and
whether that is as it should be. Where an attempt would do damage, its arguments are wrong on purpose: the answer then
tells whether the call was refused or would have been looked at.
"""

import contextlib
import ctypes
import errno
import itertools
import json
import os
import resource
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

#: Answers by which a call is refused; any other shows that the kernel looked at what it was asked.
REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH})
MANY = 1000
TIOCSTI = 0x5412
NO_FOLDER = b"/no-such-folder"

#: Calls of the kernel by their numbers in <asm/unistd_64.h>.
CALLS: dict[str, tuple[Any, ...]] = {
    "mount": (165, b"none", b"/proc", b"no-such-file-system", 0, 0),
    "mount over a folder, by fsopen": (430, b"no-such-file-system", 0),
    "clone a mount (open_tree)": (428, -100, b"/", 1),
    "umount": (166, NO_FOLDER, 0),
    "pivot_root": (155, NO_FOLDER, NO_FOLDER),
    "chroot": (161, b"/"),
    "unshare a user namespace": (272, 0x10000000),
    "unshare a mount namespace": (272, 0x00020000),
    "unshare a network namespace": (272, 0x40000000),
    "unshare by x32's number": (272 | 0x40000000, 0x10000000),
    "setns": (308, -1, 0),
    "clone3": (435, 0, 0),
    "keyctl": (250, 0, -2, 0),
    "add_key": (248, b"user", b"hyper-selftest", b"x", 1, -2),
    "request_key": (249, b"user", b"no-such-key", 0, -2),
    "userfaultfd": (323, 1),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "bpf": (321, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "name_to_handle_at": (303, -100, b"/", 0, 0, 0),
    "kexec_load": (246, 0, 1 << 20, 0, 0),
    "kexec_file_load": (320, -1, -1, 0, 0, 0),
    "init_module": (175, b"none", 4, b""),
    "finit_module": (313, -1, b"", 0),
    "delete_module": (176, b"no_such_module", 0),
    "reboot": (169, 0, 0, 0, 0),
    "swapon": (167, NO_FOLDER, 0),
    "acct": (163, NO_FOLDER),
    "quotactl": (179, 0, b"/dev/none", 0, 0),
    "sethostname": (170, b"x", -1),
    "settimeofday": (164, 0, 1),
    "the kernel's log (syslog)": (103, 10, 0, 0),
    "ioperm": (173, 0, 1, 1),
    "iopl": (172, 3),
    "personality": (135, 0x0040000),
    "setuid 0": (105, 0),
    "setgid 0": (106, 0),
    "setgroups": (116, 0, 0),
    "capset": (126, struct.pack("II", 0x20080522, 0), b"\xff" * 24),
    "memfd_create": (319, b"program", 0),
    "execveat": (322, -1, b"", 0, 0, 0x1000),
    "a real-time priority": (144, 0, 1, struct.pack("i", 1)),
    "a higher priority": (141, 0, 0, -5),
    "a message queue": (240, b"hyper-selftest", 0x42, 0o600, 0),
    "shared memory of System V": (29, 0, 4096, 0o1600),
}
SOCKETS = {
    "TCP": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "TCP by IPv6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "UDP": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "a raw IP": (socket.AF_INET, socket.SOCK_RAW, 1),
    "a packet": (socket.AF_PACKET, socket.SOCK_RAW, 3),
    "a netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "a vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    "a kernel cipher's (AF_ALG)": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    "a Unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
}
#: Set-up of the host that no machine needs, in files; some have the host's secrets.
FILES = (
    *("/etc/passwd", "/etc/shadow", "/etc/ssh", "/etc/machine-id", "/root", "/home", "/var", "/run", "/tmp", "/sys"),
    *("/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/ptmx", "/dev/vda", "/dev/sda", "/dev/vhost-vsock", "/dev/fuse"),
    *("/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger"),
)

Attempt = Callable[[], str]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def main() -> None:
    """Try everything; the last line says how many attempts there were."""
    targets = json.loads(sys.argv[1])
    attempts = [*plan_files(targets), *plan_processes(targets), *plan_sockets(targets), *plan_calls(), *plan_limits()]
    for what, attempt in attempts:
        ended, got_out = run(attempt)
        print(json.dumps({"what": what, "ended": ended, "ok": not got_out}), flush=True)
    print(json.dumps({"attempts": len(attempts)}), flush=True)


def run(attempt: Attempt) -> tuple[str, bool]:
    """How an attempt ended, and whether it got through; in a process of its own where one can be had."""
    try:
        read, write = os.pipe()
        pid = os.fork()
    except OSError:
        return judge(attempt)
    if pid == 0:
        os.write(write, json.dumps(judge(attempt)).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}", False
    ended, got_out = json.loads(text or '["nothing is known", true]')
    return ended, got_out


def judge(attempt: Attempt) -> tuple[str, bool]:
    """An attempt returns what it got, or nothing where it found nothing; or it fails with an errno."""
    try:
        got = attempt()
        return (got, True) if got else ("nothing there", False)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0) or str(exc.strerror), False


def call(number: int, *arguments: Any) -> str:
    """One call of the kernel; what it says where it does not refuse."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    code = ctypes.get_errno()
    if result >= 0:
        return f"returned {result}"
    if code not in REFUSALS:
        return f"was looked at: {errno.errorcode.get(code, code)}"
    raise OSError(code, "")


def plan_files(targets: dict[str, Any]) -> list[tuple[str, Attempt]]:
    """What of the host can be read, and where something can be written."""
    paths = [*FILES, *targets["paths"]]
    return [
        *((f"read {path}", lambda path=path: read(path)) for path in paths),
        ("find another device in /dev", lambda: " ".join(sorted(set(os.listdir("/dev")) - set(targets["devices"])))),
        ("find a name of the host in /proc/self", lambda: find_names(targets["names"])),
        ("find a variable of the host", lambda: " ".join(sorted(set(os.environ) - {"PWD", "LC_CTYPE"}))),
        ("find the host's name", lambda: os.uname().nodename * (os.uname().nodename == targets["hostname"])),
        ("find an open file or socket", lambda: find_open(targets["fds"])),
        ("make a file in any folder", lambda: make_anywhere(targets["paths"])),
        ("change a file that can be read", lambda: write(sys.executable)),
        ("make a device (mknod)", lambda: call(133, b"/tmp/hyper-selftest", 0o020600, 0x0101)),
        ("escape the OOM killer", lambda: write("/proc/self/oom_score_adj", b"0")),
        ("change a setting of the kernel", lambda: write("/proc/sys/kernel/core_pattern")),
        ("run a program as its owner (set-user-ID)", find_setuid),
    ]


def plan_processes(targets: dict[str, Any]) -> list[tuple[str, Attempt]]:
    """What of other processes can be reached; ``targets["pid"]`` is one of the host's, of the same user if possible."""
    pid = targets["pid"]
    byte = ctypes.create_string_buffer(1)
    memory = struct.pack("QQ", ctypes.addressof(byte), len(byte))
    return [
        ("see other processes", find_processes),
        ("signal a process of the host", lambda: call(62, pid, 0)),
        ("hold a process of the host (pidfd)", lambda: call(434, pid, 0)),
        ("trace a process of the host (ptrace)", lambda: call(101, 0x4206, pid, 0, 0)),
        ("be traced (ptrace)", lambda: call(101, 0, 0, 0, 0)),
        ("read its memory (process_vm_readv)", lambda: call(310, pid, memory, 1, memory, 1, 0)),
        ("write its memory (process_vm_writev)", lambda: call(311, pid, memory, 1, memory, 1, 0)),
        ("open its memory (/proc/PID/mem)", lambda: opens(f"/proc/{pid}/mem")),
        ("take a descriptor of it (pidfd_getfd)", lambda: call(438, -1, 0, 0)),
        ("compare with it (kcmp)", lambda: call(312, pid, pid, 0, 0, 0)),
        ("start a process (fork)", fork),
        ("type into a terminal (TIOCSTI)", type_into_terminal),
    ]


def plan_sockets(targets: dict[str, Any]) -> list[tuple[str, Attempt]]:
    """What can be connected to; all that ``targets`` names really listens."""

    def connect(family: int, kind: int, address: Any) -> str:
        with socket.socket(family, kind) as sock:
            sock.settimeout(2)
            sock.connect(address)
            return "connected"

    unix, stream = socket.AF_UNIX, socket.SOCK_STREAM
    return [
        *((f"open {what} socket", lambda three=three: open_socket(*three)) for what, three in SOCKETS.items()),
        *((f"connect to {path}", lambda path=path: connect(unix, stream, path)) for path in targets["sockets"]),
        ("connect to an abstract socket", lambda: connect(unix, stream, "\0" + targets["abstract"])),
        ("connect to a port of the host", lambda: connect(socket.AF_INET, stream, ("127.0.0.1", targets["port"]))),
    ]


def plan_calls() -> list[tuple[str, Attempt]]:
    """Calls that a machine has no use for, and what the kernel has noted of this process."""
    return [
        *((what, lambda words=words: call(*words)) for what, words in CALLS.items()),
        ("have a capability", lambda: find_status("Cap", "0000000000000000")),
        ("be without a filter of system calls", lambda: find_status("Seccomp:", "2")),
        ("gain privileges by a program", lambda: find_status("NoNewPrivs:", "1")),
        ("be root", lambda: "uid 0" * (os.getuid() == 0 and read_uid_map() == 0)),
    ]


def plan_limits() -> list[tuple[str, Attempt]]:
    """What is bounded, and whether the bounds can be moved."""
    return [
        ("leave a core file", lambda: f"{limit(resource.RLIMIT_CORE)} bytes" * bool(limit(resource.RLIMIT_CORE))),
        ("raise a limit", raise_limit),
        (f"start {MANY} threads", start_threads),
        (f"open {MANY} files", open_files),
        ("take 64 GiB of addresses", lambda: take_addresses(64 << 30)),
        ("lock memory", lambda: call(149, ctypes.create_string_buffer(1 << 16), 1 << 16)),
        ("write a file of any size", lambda: f"{limit(resource.RLIMIT_FSIZE)}" * (limit(resource.RLIMIT_FSIZE) == -1)),
    ]


def read(path: str) -> str:
    """Read a file or a folder."""
    if os.path.isdir(path):
        return f"folder: {' '.join(os.listdir(path))[:60]}"
    with open(path, "rb", buffering=0) as file:
        return f"opened, {len(file.read(16) if os.path.isfile(path) else b'')} bytes"


def opens(path: str) -> str:
    """Open a file for reading, and no more."""
    os.close(os.open(path, os.O_RDONLY))
    return "opened"


def write(path: str, data: bytes = b"") -> str:
    """Open a file for writing."""
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
        return "opened for writing"


def find_names(names: list[str]) -> str:
    """Names of the host's user or folders in what the kernel tells of this process."""
    text = ""
    for name in ("cmdline", "environ", "mountinfo", "cgroup"):
        with open(f"/proc/self/{name}", encoding="utf-8", errors="replace") as file:
            # The argument of this program is what names the targets.
            text += file.read().replace(sys.argv[1], "")
    return " ".join(name for name in names if name in text)


def find_open(given: list[int]) -> str:
    """Descriptors that were not given."""
    found = []
    for number in range(limit(resource.RLIMIT_NOFILE) if limit(resource.RLIMIT_NOFILE) > 0 else MANY):
        with contextlib.suppress(OSError):
            os.fstat(number)
            if number not in given and not os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                found.append(os.readlink(f"/proc/self/fd/{number}"))
    return " ".join(found)


def make_anywhere(more: list[str]) -> str:
    """A file in any folder that there is."""
    made = []
    folders = [folder for folder, _, _ in itertools.islice(os.walk("/"), MANY) if not folder.startswith("/proc/")]
    for folder in dict.fromkeys([*folders, "/proc/self", "/proc/self/cwd", "/dev/shm", "/tmp", *more]):
        path = os.path.join(folder, "hyper-selftest")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            made.append(folder)
            os.unlink(path)
    return " ".join(made[:5])


def find_setuid() -> str:
    """A set-user-ID program on a mount that honours it."""
    for folder, _, names in os.walk("/usr"):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_mode & 0o6000 and not os.statvfs(path).f_flag & os.ST_NOSUID:
                    return path
    return ""


def find_processes() -> str:
    """Processes in /proc that are neither this one nor the one that it was forked from."""
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (os.getpid(), os.getppid())]
    return f"{len(others)} processes" if others else ""


def fork() -> str:
    """Start a process, which ends at once."""
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "started"


def type_into_terminal() -> str:
    """Put a character into the input of the terminal, where there is one."""
    numbers = [0, 1, 2]
    with contextlib.suppress(OSError):
        numbers.append(os.open("/dev/tty", os.O_RDWR))
    for number in numbers:
        with contextlib.suppress(OSError):
            return call(16, number, TIOCSTI, b" ")
    raise OSError(errno.EPERM, "")


def open_socket(family: int, kind: int, protocol: int) -> str:
    """A socket of a family."""
    socket.socket(family, kind, protocol).close()
    return "opened"


def find_status(name: str, wanted: str) -> str:
    """Lines of /proc/self/status that begin with a name and do not say what is wanted."""
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith(name)]
    return " ".join(f"{line[0]}{line[1]}" for line in lines if line[1] != wanted)


def read_uid_map() -> int:
    """Who uid 0 of this namespace is to the one that made it; -1 where nobody is."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return next((outside for inside, outside, _ in ranges if inside == 0), -1)


def limit(number: int) -> int:
    """The hard limit; -1 where there is none."""
    return resource.getrlimit(number)[1]


def raise_limit() -> str:
    """More descriptors than the hard limit."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit(resource.RLIMIT_NOFILE) + 64))
    except ValueError as exc:  # Python's word for EPERM here
        raise OSError(errno.EPERM, "") from exc
    return "raised"


def start_threads() -> str:
    """As many threads as there may be; all end again."""
    stop, started = threading.Event(), []
    threading.stack_size(1 << 16)
    try:
        for _ in range(MANY):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as exc:
        raise OSError(0, f"no more than {len(started)}") from exc
    finally:
        stop.set()
        for thread in started:
            thread.join()
    return f"{MANY} run"


def open_files() -> str:
    """As many descriptors as there may be."""
    numbers: list[int] = []
    try:
        for _ in range(MANY):
            numbers.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as exc:
        raise OSError(0, f"no more than {len(numbers)}: {exc.strerror}") from exc
    finally:
        for number in numbers:
            os.close(number)
    return f"{MANY} open"


def take_addresses(size: int) -> str:
    """Addresses alone; none of it is touched."""
    address = _libc.syscall(ctypes.c_long(9), ctypes.c_long(0), ctypes.c_long(size), 0, 0x4022, -1, 0)
    if address == -1:
        raise OSError(ctypes.get_errno(), "")
    return "taken"


if __name__ == "__main__":
    main()
