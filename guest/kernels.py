"""The Jupyter kernel: found by the image's kernelspec, started, signalled, its log kept, its end told."""

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

from guest import machine
from guest.children import Child, Children, Launch, ask_inside
from guest.frames import Frames
from guest.users import find_user
from hyper_kernel.wire import KERNEL_PORTS, MAX_DATA, Type, WireError

#: Where Jupyter keeps kernelspecs; an environment made for the image comes before what its distribution has.
_FOLDERS = (
    "/opt/venv/share/jupyter/kernels",
    "/opt/conda/share/jupyter/kernels",
    "/usr/local/share/jupyter/kernels",
    "/usr/share/jupyter/kernels",
)
_HOME_FOLDER = ".local/share/jupyter/kernels"
_CONNECTION_FILE = "/run/hyper/kernel.json"
#: Bytes of what a kernel's process writes that go to the console, and that are kept until the host asks; what it prints
#: for its user goes over its channels.
_MAX_LOG = 256 * 1024
_READ = 4096


class KernelRunner:
    """At most one Jupyter kernel, and the next one after it has ended.

    :param children: where it is started.
    :param root: the image's root.
    :param on_exit: told how a kernel ended, as ``kernel.exit`` says it; called on the reaper's thread.
    """

    def __init__(self, children: Children, root: str, on_exit: Callable[[dict[str, Any]], None]) -> None:
        self._children = children
        self._root = root
        self._on_exit = on_exit
        self._kernel: Child | None = None
        #: What kernels' processes have written.
        self.log = KernelLog()

    def start(self, args: dict[str, Any], image_env: dict[str, str], user: str, cwd: str) -> dict[str, Any]:
        """Start the kernel; returns at once, without waiting for its ports.

        :param args: of ``kernel.start``.
        :return: the reply to it.
        :raise OSError, LaunchError: the image has no such kernel, or it cannot be started.
        """
        if self._kernel is not None and self._kernel.status is None:
            raise OSError("a kernel is running already: end it with kernel.signal first")
        found = ask_inside(self._root, lambda: _prepare(args, user))
        spec = found["spec"]
        env = {**image_env, **_spec_env(spec, image_env), **args.get("env", {})}
        # ipykernel ends itself when its parent is not the process that this names; "1" turns that off.
        env["JPY_PARENT_PID"] = "1"
        launch = {"argv": found["argv"], "env": env, "root": self._root, "cwd": args.get("cwd") or cwd, "user": user}
        self._kernel = self._launch(launch)
        return {"pid": self._kernel.pid, "ports": KERNEL_PORTS, "spec": spec}

    def signal(self, number: int) -> None:
        """Signal the kernel's process group; no error when it is gone."""
        if self._kernel is not None:
            self._children.signal(self._kernel, number)

    def _launch(self, launch: dict[str, Any]) -> Child:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        log, output = os.pipe()
        try:
            child = self._children.start(
                Launch(**launch, stdin=null, stdout=output, stderr=output, tty=False), self._ended
            )
        except BaseException:
            os.close(log)
            raise
        finally:
            os.close(null)
            os.close(output)
        threading.Thread(target=self.log.copy, args=(log,), name="log of the kernel", daemon=True).start()
        return child

    def _ended(self, child: Child) -> None:
        end = self._children.describe_end(child)  # before the rest goes, which may be what filled the machine
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what it left behind in its group would hold its ports
        self._on_exit(end)


class KernelLog:
    """What kernels' processes write: the first of it goes to the console, and all to the host, as soon as it asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._host: Frames | None = None
        self._kept = bytearray()

    def send_to(self, frames: Frames) -> None:
        """Send what was kept, then what comes, until the host leaves or asks on another stream."""
        with self._lock:
            older, self._host = self._host, frames
            kept, self._kept = self._kept, bytearray()
            self._add(kept)
        if older is not None:
            older.end()
        for kind, _ in frames.read():
            raise WireError(f"{kind.name} is not for a log stream")

    def copy(self, log: int) -> None:
        """Read a kernel's output until it ends; also what nobody wants: a kernel must not wait for that."""
        left = _MAX_LOG
        with open(log, "rb", buffering=0) as source:
            while data := source.read(_READ):
                os.write(machine.CONSOLE, data[:left])
                if 0 < left <= len(data):
                    machine.say("the kernel has written too much: the console shows no more of it")
                left = max(0, left - len(data))
                with self._lock:
                    self._add(data)

    def _add(self, data: bytes | bytearray) -> None:
        if self._host is not None:
            try:
                for start in range(0, len(data), MAX_DATA):
                    self._host.send(Type.STDERR, bytes(data[start : start + MAX_DATA]))
                return
            except OSError:
                self._host = None
        self._kept = (self._kept + data)[:_MAX_LOG]


def _prepare(args: dict[str, Any], user: str) -> dict[str, Any]:
    """Inside the image: find the kernelspec, write the connection file, put the command line together."""
    owner = find_user(user)
    folder, spec = _find_spec(args.get("name") or "", [*_FOLDERS, f"{owner.home}/{_HOME_FOLDER}"])
    _write_connection(args["key"], args.get("client") or {}, owner.uid, owner.gid)
    return {"spec": spec, "argv": [*_fill_argv(spec, folder), *args.get("arguments", ())]}


def _find_spec(name: str, parents: list[str]) -> tuple[str, dict[str, Any]]:
    """Folder and content of the kernelspec ``name``, or of the first one.

    :raise OSError: there is none, or it is not a kernelspec.
    """
    seen = []
    for parent in parents:
        for entry in sorted(os.listdir(parent)) if os.path.isdir(parent) else ():
            file = f"{parent}/{entry}/kernel.json"
            if not os.path.isfile(file):
                continue
            seen.append(entry)
            if name in ("", entry):
                with open(file, encoding="utf-8") as content:
                    spec = json.load(content)
                if not isinstance(spec, dict) or not spec.get("argv"):
                    raise OSError(f"{file} in the image is not a kernelspec: it names no argv")
                return f"{parent}/{entry}", spec
    if seen:
        raise OSError(f"the image has no kernel {name}: it has {', '.join(seen)}")
    raise OSError("the image has no Jupyter kernel: install one in it, for Python the package ipykernel")


def _write_connection(key: str, client: dict[str, Any], uid: int, gid: int) -> None:
    """Write the connection file, for the kernel's user alone."""
    info = {
        "signature_scheme": "hmac-sha256",
        **client,
        "transport": "tcp",
        "ip": "127.0.0.1",
        "key": key,
        **{f"{channel}_port": port for channel, port in KERNEL_PORTS.items()},
    }
    os.makedirs(os.path.dirname(_CONNECTION_FILE), mode=0o755, exist_ok=True)
    if os.path.lexists(_CONNECTION_FILE):
        os.unlink(_CONNECTION_FILE)
    fd = os.open(_CONNECTION_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if os.getuid() == 0:
        os.fchown(fd, uid, gid)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(info, file)


def _fill_argv(spec: dict[str, Any], folder: str) -> list[str]:
    """The kernelspec's command line with its placeholders filled in."""
    argv = [
        str(word).replace("{connection_file}", _CONNECTION_FILE).replace("{resource_dir}", folder)
        for word in spec["argv"]
    ]
    # A bare "python" means the interpreter of the environment that the kernelspec is in: PREFIX/share/jupyter/kernels.
    own = f"{folder.rpartition('/share/jupyter/kernels/')[0]}/bin/{argv[0]}"
    if "/" not in argv[0] and argv[0].startswith("python") and os.access(own, os.X_OK):
        argv[0] = own
    return argv


def _spec_env(spec: dict[str, Any], known: dict[str, str]) -> dict[str, str]:
    """The kernelspec's environment; ``${NAME}`` in it means the image's variable, as jupyter_client has it."""

    def fill(found: "re.Match[str]") -> str:
        return known.get(found[1], found[0])

    return {name: re.sub(r"\$\{(\w+)\}", fill, str(value)) for name, value in spec.get("env", {}).items()}
