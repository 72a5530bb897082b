"""Child processes: started in the image's root, reaped in one place, told apart by pid."""

import contextlib
import errno
import fcntl
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from guest import kernel_calls
from guest.cage import Cage
from guest.users import find_user

_NOT_FOUND = 127
_NOT_RUNNABLE = 126


class LaunchError(Exception):
    """A program could not be started.

    :param reason: for people.
    :param code: the exit code a shell would give: 127 not found, 126 found but not runnable.
    """

    def __init__(self, reason: str, code: int = _NOT_RUNNABLE) -> None:
        super().__init__(reason)
        self.code = code


class Launch(NamedTuple):
    """A program to start. ``root`` is the folder that becomes ``/`` (empty: the agent's own).

    ``user`` is NAME, UID or either with ``:GROUP``; empty means root. ``cwd`` is made where it is missing.
    """

    argv: list[str]
    env: dict[str, str]
    root: str
    cwd: str
    user: str
    stdin: int
    stdout: int
    stderr: int
    tty: bool


class Child:
    """A process that was started; a program leads its own session and process group.

    ``status`` is as waitpid(2) gives it, once the process has ended.
    """

    def __init__(self, pid: int, on_exit: "Callable[[Child], None]") -> None:
        self.pid = pid
        self.on_exit = on_exit
        self.status: int | None = None


class Children:
    """Starts children and reaps every process that ends, orphans included (process 1 inherits them).

    :param cage: where all of them live.
    """

    def __init__(self, cage: Cage) -> None:
        self._cage = cage
        self._lock = threading.Lock()
        self._running: dict[int, Child] = {}
        self._born = threading.Event()

    def start(self, launch: Launch, on_exit: Callable[[Child], None]) -> Child:
        """Start a program.

        :param on_exit: called once, on the reaper's thread, when the program has ended; must not block.
        :raise LaunchError: it could not be started; ``on_exit`` is not called then.
        """
        reader, writer = os.pipe()
        with self._lock:  # so that the reaper cannot meet a pid that is not in the table yet
            pid = os.fork()
            if pid == 0:
                _become(launch, self._cage, writer)
            child = self._running[pid] = Child(pid, on_exit)
        self._born.set()
        os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as failure:
            problem = failure.read()  # ends when the child has become the program: the pipe is close-on-exec
        if problem:
            with self._lock:
                child.on_exit = _ignore
            code, _, reason = problem.partition(" ")
            raise LaunchError(reason, int(code))
        return child

    def signal(self, child: Child, number: int) -> None:
        """Send a signal to the child's process group; nothing happens when the child has ended."""
        with self._lock:  # SECURITY: an ended child's pid may belong to somebody else by now
            if child.status is not None:
                return
            with contextlib.suppress(ProcessLookupError):  # ended, not reaped yet
                os.killpg(child.pid, number)

    def fork(self, work: Callable[[], None], on_exit: "Callable[[Child], None]") -> Child:
        """Run a function in a forked process, which ends with it (status 0, or 1 and a traceback when it raised).

        :param on_exit: as for :meth:`start`.
        """
        with self._lock:
            pid = os.fork()
            if pid == 0:
                _work(work, self._cage)
            child = self._running[pid] = Child(pid, on_exit)
        self._born.set()
        return child

    def describe_end(self, child: Child) -> dict[str, Any]:
        """How a child ended, as EXIT and ``kernel.exit`` say it; where it failed, with what may have been the cause."""
        status = child.status
        assert status is not None, "only an ended child has a status"
        if os.WIFSIGNALED(status):
            end = {"code": None, "signal": os.WTERMSIG(status)}
        else:
            end = {"code": os.WEXITSTATUS(status), "signal": None}
        return {**end, **self._cage.read_strain()} if status else end

    def reap_forever(self) -> NoReturn:
        """Wait for processes to end and tell who started them; runs on a thread of its own."""
        while True:
            self._born.clear()
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                self._born.wait()
                continue
            with self._lock:
                child = self._running.pop(pid, None)
                if child is not None:
                    child.status = status
            if child is not None:
                child.on_exit(child)


def _ignore(_child: Child) -> None:
    pass


def enter(root: str) -> None:
    """Make ``root`` the root folder of this (forked) process, or of this thread that shares none; empty leaves it."""
    if root:
        os.chroot(root)
        os.chdir("/")


def ask_inside(root: str, question: Callable[[], Any]) -> Any:
    """Run a function on a thread whose ``/`` is ``root``, so that no link of the image leads out.

    A thread, since forking costs an emulated processor 30 ms more the first time.

    :raise OSError: what the function raised, as text.
    """
    answer: list[Any] = []

    def work() -> None:
        try:
            kernel_calls.leave_shared_root()
            enter(root)
            answer.append(question())
        except (OSError, ValueError, LookupError) as exc:
            answer.append(OSError(str(exc)))

    thread = threading.Thread(target=work, name="inside the image")
    thread.start()
    thread.join()
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def _work(work: Callable[[], None], cage: Cage) -> NoReturn:
    """In the forked process: do the work and end; never return into the agent's code."""
    try:
        cage.enter()
        work()
    except BaseException:  # noqa: BLE001 - as said
        sys.excepthook(*sys.exc_info())  # to standard error: the console
        os._exit(1)
    os._exit(0)


def _become(launch: Launch, cage: Cage, failure: int) -> NoReturn:
    """In the forked process: turn into the program, or say why not and end."""
    try:
        cage.enter()
        _prepare(launch)
        os.execvpe(launch.argv[0], launch.argv, launch.env)
    except FileNotFoundError:
        problem = f"{_NOT_FOUND} {launch.argv[0]}: not found in the image"
    except OSError as exc:
        problem = f"{_NOT_RUNNABLE} {launch.argv[0]}: {exc.strerror or exc}"
    except BaseException as exc:  # noqa: BLE001 - as above
        problem = f"{_NOT_RUNNABLE} {launch.argv[0] if launch.argv else '(no program)'}: {exc}"
    os.write(failure, problem.encode()[:4096])
    os._exit(1)


def _prepare(launch: Launch) -> None:
    os.setsid()
    if launch.tty:
        fcntl.ioctl(launch.stdin, termios.TIOCSCTTY, 0)
    for number, fd in enumerate((launch.stdin, launch.stdout, launch.stderr)):
        os.dup2(fd, number)
    _reset_signals()
    enter(launch.root)
    user = find_user(launch.user)
    launch.env.setdefault("HOME", user.home)
    _go_to(launch.cwd or "/")
    if launch.tty:
        os.fchown(0, user.uid, -1)
    if os.getuid() == 0:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)


def _go_to(folder: str) -> None:
    """Change to a folder, made where it is missing."""
    try:
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
    except OSError as exc:
        # Not FileNotFoundError: the program itself was not looked for yet.
        raise OSError(errno.EINVAL, f"cannot enter {folder}: {exc.strerror}") from exc


def _reset_signals() -> None:
    """Python ignores these; a program expects the kernel's default."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
