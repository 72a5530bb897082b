"""The agent: answers the host's requests and serves its streams. The contract is ``wire.py``."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from guest import machine
from guest.cage import Cage
from guest.changes import find_changes
from guest.children import Children, LaunchError, ask_inside
from guest.folders import mount_folder
from guest.frames import Frames
from guest.identity import ImageConfig, read_image_config
from guest.kernels import KernelRunner
from guest.programs import Program
from guest.splice import dial_port, splice
from guest.users import find_user
from hyper_kernel import wire
from hyper_kernel.wire import Type

#: Events kept for a host that is away (its machine hibernates, its link broke).
_MAX_PENDING = 64
#: How long a folder stream may take to become a mount, in seconds.
_MOUNT_S = 20.0
#: What a request or a stream may fail with; anything else is a bug here and ends the machine.
_FAILURES = (OSError, ValueError, LookupError, TypeError, LaunchError)


class Agent:
    """Serves one host. The newest control connection is the live one; the kernel and programs outlive it.

    :param root: the image's root; empty means the agent's own.
    :param take_identity: applies the arguments of ``resync``.
    :param cage: where all that runs for the user lives.
    """

    def __init__(self, root: str, take_identity: Callable[[dict[str, Any], str], None], cage: Cage) -> None:
        self._root = root
        self._take_identity = take_identity
        self._cage = cage
        self._children = Children(cage)
        self._kernels = KernelRunner(self._children, root, self._kernel_ended)
        self._lock = threading.Lock()
        self._control: Frames | None = None
        self._image: ImageConfig | None = None
        self._pending: list[dict[str, Any]] = []
        #: Set once the last folder stream is a mount, or cannot become one: then there is a problem.
        self._mounted = threading.Event()
        self._mount_problem = ""
        #: When what came with a folder's base was there.
        self._base_ns: dict[str, int] = {}
        self._operations = {
            "resync": self._resync,
            "kernel.start": self._start_kernel,
            "kernel.signal": self._signal_kernel,
            "changes": self._count_changes,
            "user": self._find_user,
            "mounted": self._wait_mounted,
            "stats": self._read_stats,
            "ping": self._ping,
        }

    def start(self) -> None:
        """Start the thread that reaps children."""
        threading.Thread(target=self._children.reap_forever, name="reaper", daemon=True).start()

    def listen(self, listener: socket.socket) -> NoReturn:
        """Serve each connection to ``listener`` on a thread of its own, for ever."""
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=self._serve_stream, args=(Frames(sock),), name="stream", daemon=True).start()

    # Control

    def serve_control(self, frames: Frames) -> None:
        """Say hello, then answer requests until the connection ends; a newer connection ends it too."""
        with self._lock:
            older, self._control = self._control, None
            self._image = None  # SECURITY: a clone's host must resync before anything else is served
        if older is not None:
            older.end()
        try:
            frames.send(Type.HELLO, _hello())
            kind, welcome = frames.receive_one()
            if kind is not Type.WELCOME:
                raise wire.WireError(f"{kind.name} came in place of WELCOME")
            wire.check_version(welcome)
            self._go_live(frames)
            for kind, payload in frames.read():
                if kind is not Type.REQUEST:
                    raise wire.WireError(f"{kind.name} is not for the control connection")
                self._answer(frames, wire.parse(kind, payload))
        except (OSError, EOFError):
            pass  # the device or the host went away: there will be another connection
        except wire.WireError as exc:
            machine.say(f"control connection closed: {exc}")
        finally:
            with self._lock:
                if self._control is frames:
                    self._control = None
            frames.close()

    def _go_live(self, frames: Frames) -> None:
        with self._lock:
            self._control = frames
            pending, self._pending = self._pending, []
        for event in pending:
            self._tell(event)

    def _answer(self, frames: Frames, request: dict[str, Any]) -> None:
        number, name, args = request.get("id"), request.get("op"), request.get("args") or {}
        if name == "poweroff":
            frames.send(Type.REPLY, {"id": number, "result": {}})
            machine.power_off()
        operation = self._operations.get(str(name))
        try:
            if operation is None:
                raise LookupError(f"the agent does not know the operation {name}")
            if self._image is None and name != "resync":
                raise OSError(f"{name} came before resync")
            reply = {"id": number, "result": operation(args)}
        except _FAILURES as exc:
            reply = {"id": number, "error": _explain(exc)}
        frames.send(Type.REPLY, reply)

    def _tell(self, event: dict[str, Any]) -> None:
        """Send an event, or keep it until the host is back."""
        with self._lock:
            control = self._control
            if control is None:
                self._pending = [*self._pending, event][-_MAX_PENDING:]
                return
        try:
            control.send(Type.EVENT, event)
        except OSError:
            with self._lock:
                self._pending = [*self._pending, event][-_MAX_PENDING:]

    def _resync(self, args: dict[str, Any]) -> dict[str, Any]:
        self._take_identity(args, self._root)
        self._cage.limit(int(args["processes"]))
        self._image = read_image_config(args)
        return {}

    def _start_kernel(self, args: dict[str, Any]) -> dict[str, Any]:
        image = self._ready()
        return self._kernels.start(args, image.env, image.user, image.cwd)

    def _signal_kernel(self, args: dict[str, Any]) -> dict[str, Any]:
        self._kernels.signal(int(args["signal"]))
        return {}

    def _count_changes(self, args: dict[str, Any]) -> dict[str, Any]:
        path = _place(str(args["path"]), self._ready())
        return {"count": ask_inside(self._root, lambda: sum(1 for _ in find_changes(path, self._base_ns.get(path, 0))))}

    def _find_user(self, args: dict[str, Any]) -> dict[str, Any]:
        name = str(args["name"]) or self._ready().user
        user = ask_inside(self._root, lambda: find_user(name))
        return {"uid": user.uid, "gid": user.gid}

    def _wait_mounted(self, _args: dict[str, Any]) -> dict[str, Any]:
        if not self._mounted.wait(_MOUNT_S) or self._mount_problem:
            raise OSError(self._mount_problem or "the host does not serve its folder")
        return {}

    def _read_stats(self, _args: dict[str, Any]) -> dict[str, Any]:
        return machine.read_figures()

    def _ping(self, _args: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _kernel_ended(self, end: dict[str, Any]) -> None:
        # Not on the reaper's thread: a host that does not read must not stop the reaping.
        threading.Thread(target=self._tell, args=({"event": "kernel.exit", **end},), name="event", daemon=True).start()

    def _ready(self) -> ImageConfig:
        if self._image is None:
            raise OSError("the sandbox has no identity yet: resync comes first")
        return self._image

    # Streams

    def _serve_stream(self, frames: Frames) -> None:
        try:
            kind, args = frames.receive_one()
            if kind is not Type.OPEN:
                raise wire.WireError(f"{kind.name} came in place of OPEN")
            if args.get("kind") == "control":
                self.serve_control(frames)
            else:
                self._open(frames, args)
        except (EOFError, BrokenPipeError, ConnectionError):
            pass  # the peer is gone
        except wire.WireError as exc:
            machine.say(f"stream closed: {exc}")
        finally:
            frames.close()

    def _open(self, frames: Frames, args: dict[str, Any]) -> None:
        """Open a stream of the kind that is asked for, or refuse it."""
        try:
            kind = args.get("kind")
            if kind == "exec":
                self._run_program(frames, args, self._ready())
            elif kind in ("put", "get", "list"):
                self._serve_archive(frames, kind, args, self._ready())
            elif kind == "folder":
                self._mount_folder(frames, args, self._ready())
            elif kind == "log":
                self._send_log(frames, self._ready())
            elif kind == "connect":
                self._connect(frames, args, self._ready())
            else:
                raise LookupError(f"the agent does not know streams of kind {kind}")
        except _FAILURES as exc:
            refusal = {"error": _explain(exc), **({"code": exc.code} if isinstance(exc, LaunchError) else {})}
            frames.send(Type.REFUSED, refusal)
            frames.finish()

    def _run_program(self, frames: Frames, args: dict[str, Any], image: ImageConfig) -> None:
        tty = bool(args.get("tty"))
        launch = {
            "argv": [str(word) for word in args["argv"]],
            "env": {**({"TERM": "xterm"} if tty else {}), **image.env, **args.get("env", {})},
            "root": self._root,
            "cwd": args.get("cwd") or image.cwd,
            "user": args.get("user") or image.user,
        }
        program = Program(frames, self._children)
        program.run(launch, tty=tty, rows=int(args.get("rows") or 24), cols=int(args.get("cols") or 80))

    def _serve_archive(self, frames: Frames, kind: str, args: dict[str, Any], image: ImageConfig) -> None:
        path = _place(str(args["path"]), image)
        since_ns = self._base_ns.get(path, 0) if args.get("changes") or kind == "list" else None
        max_size = args.get("max_size")
        kind = "layer" if args.get("layer") else kind
        frames.send(Type.OPENED, {})
        done = threading.Event()
        child = self._children.fork(
            lambda: _archive(kind, frames, path, self._root, since_ns, max_size), lambda _child: done.set()
        )
        done.wait()
        if kind == "put" and args.get("base"):
            self._base_ns[path] = time.time_ns()
        frames.send(Type.EXIT, self._children.describe_end(child))
        frames.finish()

    def _mount_folder(self, frames: Frames, args: dict[str, Any], image: ImageConfig) -> None:
        path = _place(str(args["path"]), image)
        self._mounted.clear()
        self._mount_problem = ""
        frames.send(Type.OPENED, {})
        try:
            mount_folder(frames, self._root, path, read_only=bool(args.get("read_only")))
        except OSError as exc:
            self._mount_problem = str(exc)
        self._mounted.set()

    def _send_log(self, frames: Frames, _image: ImageConfig) -> None:
        frames.send(Type.OPENED, {})
        self._kernels.log.send_to(frames)

    def _connect(self, frames: Frames, args: dict[str, Any], _image: ImageConfig) -> None:
        sock = dial_port(int(args["port"]), float(args.get("wait_s") or 0))
        frames.send(Type.OPENED, {})
        splice(frames.sock, sock)


def _place(path: str, image: ImageConfig) -> str:
    """Where a path of the host's is: below the image's working folder, unless it says otherwise."""
    return path if path.startswith("/") else f"{image.cwd}/{path}"


def _archive(kind: str, frames: Frames, path: str, root: str, since_ns: int | None, max_size: int | None) -> None:
    """In the forked process."""
    from guest import archive  # noqa: PLC0415 - only this process pays for tarfile, and before it changes its root

    archive.serve(kind, frames, path, root, since_ns, max_size)


def _hello() -> dict[str, Any]:
    return {"version": wire.VERSION, "kernel": os.uname().release, "python": sys.version.split()[0]}


def _explain(exc: BaseException) -> str:
    """What failed, for people; a missing argument is an odd KeyError otherwise."""
    return f"argument {exc} is missing" if isinstance(exc, KeyError) else str(exc) or type(exc).__name__
