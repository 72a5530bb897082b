"""A jail around a program: bubblewrap's namespaces, a filter of system calls, limits, a user of its own."""

import asyncio
import contextlib
import json
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.cgroup import find_base, hold_in_cgroup
from hyper_kernel.host.process import Child, read_parent, watch_exit

BINARY = "bwrap"
#: Users that nobody else has, by systemd's UIDS-GIDS: the first of those that it leaves unused; a pid is added.
FIRST_UID = 0x7000_0000
_MAX_PID = 1 << 22  # PID_MAX_LIMIT of <linux/threads.h>
#: The host ends jailed programs before its own when memory runs out; see oom_score_adj in proc(5).
OOM_SCORE = 800
_START_S = 20.0
_NOBODY_ELSE = "as root, jailed programs get users of their own from {first} on, which this host's user namespace lacks"


class JailError(HostError):
    """This host cannot make the jail; nothing is started without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A folder of the host that a jailed program sees as ``place``, without its devices and what is set-uid in it."""

    folder: Path
    place: str
    is_writable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """What a jailed program gets; there is nothing else.

    :ivar readable: files and folders of the host, at the same places, read-only.
    :ivar links: other names for these, as (target, name).
    :ivar devices: devices of the host.
    :ivar syscalls: the filter of its system calls, see ``seccomp``.
    :ivar limits: pairs of ``resource.RLIMIT_*`` and its value.
    :ivar tasks: processes and threads at once.
    :ivar memory_bytes: memory that it may use, where this host lets us bound that (see ``cgroup``).
    :ivar has_proc: whether it sees its own /proc.
    :ivar shared: folders of the host at other places.
    :ivar inner_uid: the number that its user has in there; None: the same as outside.
    """

    readable: tuple[Path, ...]
    links: tuple[tuple[str, str], ...]
    devices: tuple[Path, ...]
    syscalls: bytes
    limits: tuple[tuple[int, int], ...]
    tasks: int
    memory_bytes: int
    has_proc: bool = True
    shared: tuple[Shared, ...] = ()
    inner_uid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom a jailed program runs as; ``groups`` are those that open its devices, ``gid`` is as ``uid`` where None."""

    uid: int
    groups: tuple[int, ...] = ()
    gid: int | None = None


def jail_argv(jail: Jail, program: Sequence[str], *, syscalls_fd: int, info_fd: int) -> list[str]:
    """The command line of a jailed program."""
    words = [BINARY]
    # SECURITY: namespaces of its own for users, processes, mounts, network, IPC, the host's name and cgroups; no
    # namespace to come, no capability, no terminal, no variable, and an end when we end.
    words += ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    words += ["--new-session", "--die-with-parent", "--as-pid-1", "--clearenv", "--hostname", "jail"]
    for path in jail.readable:
        words += ["--ro-bind", str(path), str(path)]
    for target, name in jail.links:
        words += ["--symlink", target, name]
    for one in jail.shared:
        words += ["--bind" if one.is_writable else "--ro-bind", str(one.folder), one.place]
    if jail.inner_uid is not None:
        words += ["--uid", str(jail.inner_uid), "--gid", str(jail.inner_uid)]
    for path in jail.devices:
        words += ["--dev-bind", str(path), str(path)]
    # SECURITY: after this neither the root, which is memory, nor what /proc says of the program can be changed.
    words += ["--proc", "/proc", "--remount-ro", "/proc"] if jail.has_proc else []
    words += ["--remount-ro", "/", "--chdir", "/"]
    return [*words, "--seccomp", str(syscalls_fd), "--info-fd", str(info_fd), "--", *program]


def plan_identity(uid: int, pid: int, uid_map: str, devices: Sequence[os.stat_result]) -> Identity | None:
    """The user for what process ``pid`` of ``uid`` jails; None where that is ``uid``.

    :param uid_map: the text of /proc/self/uid_map.
    :param devices: what it must be able to open.
    :raise JailError: this is root in a user namespace without such users.
    """
    if uid != 0:
        return None
    # SECURITY: one that breaks out is nobody, and not the nobody of another sandbox.
    own = FIRST_UID + pid
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    if not any(first <= own < first + count for first, _, count in ranges):
        raise JailError(_NOBODY_ELSE.format(first=FIRST_UID), hint="run hyperd as an ordinary user")
    groups = {device.st_gid for device in devices if can_open(device) and device.st_mode & 0o006 != 0o006}
    return Identity(uid=own, groups=tuple(sorted(groups)))


def can_open(device: os.stat_result) -> bool:
    """Whether a user that root gives to a jailed program can open a device: as anybody, or by its group."""
    # SECURITY: never by root's group, which opens much else.
    return device.st_mode & 0o006 == 0o006 or (device.st_mode & 0o060 == 0o060 and device.st_gid != 0)


def find_remedy(proc: Path = Path("/proc")) -> str:
    """What this host's settings say against jails of ordinary users, and how to change it."""

    def read(name: str) -> str:
        try:
            return (proc / "sys" / name).read_text().strip()
        except OSError:
            return ""

    if read("kernel/unprivileged_userns_clone") == "0":
        return "as root: sysctl kernel.unprivileged_userns_clone=1"
    if read("user/max_user_namespaces") == "0":
        return "as root: sysctl user.max_user_namespaces=15000"
    if read("kernel/apparmor_restrict_unprivileged_userns") == "1":
        profile = "give bwrap an AppArmor profile that allows userns"
        return f"{profile}, or as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return "allow user namespaces and fresh mounts of /proc, which containers often forbid (Docker: --privileged)"


class Jailed:
    """A program in its jail.

    :ivar pid: its process, as the host numbers it.
    """

    def __init__(self, outer: Child, pid: int) -> None:
        self.pid = pid
        self._outer = outer
        self._pidfd = os.pidfd_open(pid)
        self._ended = watch_exit(pid)

    @property
    def command(self) -> str:
        """The command, with the jail around it, quoted for a shell."""
        return self._outer.command

    async def wait(self) -> int:
        """Wait until nothing of it lives; its exit code, or minus the number of the signal that ended it."""
        code = await self._outer.wait()
        await self._ended.wait()
        return 128 - code if code > 128 else code  # bwrap ends as a shell does

    async def kill(self) -> None:
        """End it at once; does nothing to one that has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await self.wait()

    def close(self) -> None:
        """Forget it, once it has ended."""
        os.close(self._pidfd)


@asynccontextmanager
async def start_jailed(
    jail: Jail,
    program: Sequence[str],
    *,
    output: int,
    said: Callable[[], str],
    pass_fds: Sequence[int] = (),
    user: Identity | None = None,
) -> AsyncIterator[Jailed]:
    """A program in a jail; leaving the context ends it and leaves nothing.

    :param output: the descriptor for what it says.
    :param said: what of that has come.
    :param pass_fds: descriptors it inherits under the same numbers.
    :param user: whom it runs as where this is root; None: somebody that nobody else is. Others run as they are.
    :raise JailError: this host cannot make the jail; says what to do.
    """
    told, info = os.pipe()
    try:
        try:
            outer = _start_outer(jail, program, output, pass_fds, info, user)
        finally:
            os.close(info)
        jailed = await _meet(outer, told, said)
    finally:
        os.close(told)
    async with AsyncExitStack() as stack:
        stack.callback(jailed.close)
        stack.push_async_callback(jailed.kill)
        if os.getuid() or user:
            # Only now: before it had a user namespace of its own, all processes of this user would have counted.
            # Root in a container may lack what another user's limits take.
            with contextlib.suppress(ProcessLookupError, *([PermissionError] if user else [])):
                resource.prlimit(jailed.pid, resource.RLIMIT_NPROC, (jail.tasks, jail.tasks))
        bounds = hold_in_cgroup(jailed.pid, memory_bytes=jail.memory_bytes, tasks=jail.tasks, base=find_base())
        stack.enter_context(bounds)
        stack.push_async_callback(jailed.kill)  # before its cgroup goes
        yield jailed


def sweep_jails() -> list[int]:
    """End jailed programs whose jail was killed while it was made; their processes.

    bubblewrap's second process asks to die with the first when that has set it up, and does not look whether it is
    there still: one whose first was killed before waits for ever, or runs without it.
    """
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _end_orphan(pid)]


def _end_orphan(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        if not _is_orphan(pid):
            return False
        pidfd = os.pidfd_open(pid)
        try:
            # SECURITY: looked at again once the descriptor is open, which names the process whatever its number does.
            if _is_orphan(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _is_orphan(pid: int) -> bool:
    """Whether it is process 1 of a jail of this user's whose first process is gone.

    :raise OSError, ValueError: it has ended.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uid, numbers = int(status["Uid"].split()[0]), status["NSpid"].split()
    is_ours = uid == os.getuid() if os.getuid() else FIRST_UID <= uid < FIRST_UID + _MAX_PID
    words = _read_words(pid)
    is_machine = is_ours and b"-name" in words and words[words.index(b"-name") + 1].startswith(b"hyper-")
    # What serves a folder may have any user, and ends by itself with its client, once it has become that program.
    is_unmade = os.getuid() in (0, uid) and words[0] == BINARY.encode() and b"--info-fd" in words
    if not (is_machine or is_unmade) or len(numbers) < 2 or numbers[-1] != "1":
        return False
    return _read_words(int(status["PPid"]))[0] != BINARY.encode()


def _read_words(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def check_made(words: str) -> None:
    """Tell a program that failed from a jail that could not be made.

    :param words: the last words of what was to be jailed.
    :raise JailError: they are bubblewrap's.
    """
    if line := next((line for line in words.splitlines() if line.startswith(f"{BINARY}: ")), ""):
        raise JailError(f"this host cannot make the jail that machines run in: {line}", hint=find_remedy())


def _start_outer(
    jail: Jail, program: Sequence[str], output: int, pass_fds: Sequence[int], info: int, user: Identity | None
) -> Child:
    devices = [os.stat(path) for path in jail.devices]
    own = plan_identity(os.getuid(), os.getpid(), Path("/proc/self/uid_map").read_text(), devices)
    identity = (user or own) if own else None
    syscalls = os.memfd_create("syscalls", os.MFD_CLOEXEC)
    try:
        os.write(syscalls, jail.syscalls)
        os.lseek(syscalls, 0, os.SEEK_SET)
        words = jail_argv(jail, program, syscalls_fd=syscalls, info_fd=info)
        fds = (*pass_fds, syscalls, info)
        return Child(
            words, output=output, pass_fds=fds, prepare=lambda: _prepare(jail, identity, is_alone=user is None)
        )
    finally:
        os.close(syscalls)


def _prepare(jail: Jail, identity: Identity | None, *, is_alone: bool) -> None:
    """What bubblewrap cannot do; runs in the new process, before it.

    :param is_alone: whether nobody else has this identity: processes that it has elsewhere would count, too.
    """
    for limit, value in jail.limits:
        resource.setrlimit(limit, (value, value))
    with contextlib.suppress(PermissionError):  # it is higher already
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    if identity:
        if is_alone:
            resource.setrlimit(resource.RLIMIT_NPROC, (jail.tasks, jail.tasks))
        os.setgroups(identity.groups)
        gid = identity.uid if identity.gid is None else identity.gid
        os.setresgid(gid, gid, gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)


async def _meet(outer: Child, told: int, said: Callable[[], str]) -> Jailed:
    """The program in the jail, as soon as it has a process."""
    try:
        async with asyncio.timeout(_START_S):
            pid = await _read_pid(told)
            # Not reaped, so that nobody else has the number, if it is bubblewrap's child yet.
            if pid and read_parent(pid) == outer.pid:
                return Jailed(outer, pid)
            code = await outer.wait()
    except BaseException:
        await outer.kill()
        sweep_jails()  # the program may be in the state in which that does not end it
        raise
    check_made(said())
    raise JailError(f"{BINARY} ended with {code}: {said() or 'it said nothing'}", hint=find_remedy())


async def _read_pid(told: int) -> int:
    """Bubblewrap's word on the process that it made, 0 where it ended instead; see --info-fd in bwrap(1)."""
    loop, text = asyncio.get_running_loop(), b""
    while b"}" not in text:
        ready = asyncio.Event()
        loop.add_reader(told, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(told)
        if not (data := os.read(told, 4096)):
            return 0
        text += data
    return int(json.loads(text)["child-pid"])
