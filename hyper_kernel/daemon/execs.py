"""Routes of Docker's exec: further programs in a running sandbox."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.containers import terminal_size
from hyper_kernel.daemon.create_body import plan_env
from hyper_kernel.daemon.errors import NotHereError
from hyper_kernel.daemon.names import new_id
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.daemon.shims import RefusedError, open_stream
from hyper_kernel.daemon.streams import DetachKeys, carry, encode
from hyper_kernel.errors import ConflictError, LostError, NotFoundError, RequestError
from hyper_kernel.link import Frames
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.sandbox.record import State
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)

#: How many ended execs stay known, for clients that ask for the exit code.
_KEPT = 500
_BOTH = frozenset({Type.STDOUT, Type.STDERR})


@dataclass(slots=True, kw_only=True)
class Exec:
    """A program that was asked for; ``code`` is -1 until it has ended."""

    id: str
    box: Box
    argv: list[str]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    stdin: bool = False
    wanted: frozenset[Type] = _BOTH
    keys: DetachKeys | None = None
    code: int = -1
    pid: int = 0
    started: bool = False
    frames: Frames | None = None
    size: dict[str, int] = field(default_factory=lambda: {"rows": 24, "cols": 80})

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.frames is not None


class Execs:
    """Answers for execs; they are known until hyperd ends, the last few hundred of them."""

    def __init__(self, sandboxes: Sandboxes, images: ImageStore) -> None:
        self._sandboxes = sandboxes
        self._images = images
        self._execs: dict[str, Exec] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("POST", "/containers/{id}/exec", self.create)
        routes.add("POST", "/exec/{id}/start", self.start)
        routes.add("POST", "/exec/{id}/resize", self.resize)
        routes.add("GET", "/exec/{id}/json", self.inspect)

    async def create(self, call: Call) -> Answer:
        """POST /containers/{id}/exec."""
        box = self._sandboxes.get(call.params["id"])
        body = await call.json()
        if box.record.state is not State.RUNNING:
            raise ConflictError(f"container {box.record.id} is not running", hint="see: hyper ps -a")
        if body.get("Privileged"):
            raise NotHereError("Privileged: root in a sandbox is root of its own machine", hint="use --user root")
        argv = body.get("Cmd")
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise RequestError("No exec command specified", hint="give a command after the sandbox's name")
        made = Exec(
            id=new_id(),
            box=box,
            argv=argv,
            env=plan_env(tuple(body.get("Env") or ())),
            cwd=str(body.get("WorkingDir") or ""),
            user=str(body.get("User") or ""),
            tty=bool(body.get("Tty")),
            stdin=bool(body.get("AttachStdin")),
            wanted=_wanted(body),
            keys=DetachKeys(str(body.get("DetachKeys") or "")) if body.get("Tty") else None,
        )
        self._keep(made)
        self._sandboxes.tell(box, f"exec_create: {' '.join(argv)}", execID=made.id)
        return Answer(status=201, body={"Id": made.id})

    async def start(self, call: Call) -> Answer | None:
        """POST /exec/{id}/start."""
        made, body = self._get(call), await call.json()
        if made.started:
            raise ConflictError(f"exec {made.id[:12]} was started already", hint="create another one")
        made.started = True
        if size := body.get("ConsoleSize"):
            made.size = {"rows": int(size[0]), "cols": int(size[1])}
        self._sandboxes.tell(made.box, f"exec_start: {' '.join(made.argv)}", execID=made.id)
        if not body.get("Detach"):
            await self._attached(call, made)
            return None
        await self._open(made)
        task = asyncio.create_task(self._detached(made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Answer(status=200)

    async def inspect(self, call: Call) -> Answer:
        """GET /exec/{id}/json."""
        made = self._get(call)
        entry, *arguments = made.argv
        return Answer(
            body={
                "ID": made.id,
                "ContainerID": made.box.record.id,
                "Running": made.running,
                "ExitCode": made.code if made.started and not made.running else None,
                "ProcessConfig": {
                    "tty": made.tty,
                    "entrypoint": entry,
                    "arguments": arguments,
                    "privileged": False,
                    "user": made.user,
                },
                "OpenStdin": made.stdin,
                "OpenStdout": Type.STDOUT in made.wanted,
                "OpenStderr": Type.STDERR in made.wanted,
                "CanRemove": False,
                "DetachKeys": "",
                "Pid": made.pid,
            }
        )

    async def resize(self, call: Call) -> Answer:
        """POST /exec/{id}/resize."""
        made, size = self._get(call), terminal_size(call)
        made.size = size
        if made.frames:
            await made.frames.send(Type.RESIZE, dict(size))
        return Answer(status=200)

    async def _open(self, made: Exec) -> Frames:
        """Start the program.

        :raise RefusedError: the guest does not; ``made.code`` is what a shell would say.
        :raise LostError: the sandbox is gone.
        """
        image = self._images.find(made.box.record.image_id)
        config, process = (image.config if image else None), made.box.record.spec.process
        env = (*(config.env if config else ()), *process.env, *made.env)
        size = made.size
        try:
            frames, opened = await open_stream(
                made.box.socket,
                "exec",
                argv=made.argv,
                env=dict(entry.split("=", 1) for entry in env),
                cwd=made.cwd or process.cwd or (config.cwd if config else ""),
                user=made.user or process.user or (config.user if config else ""),
                tty=made.tty,
                **size,
            )
        except RefusedError as exc:
            made.code = exc.code
            raise
        except LostError:
            made.code = 125
            raise
        made.frames, made.pid = frames, int(opened.get("pid") or 0)
        if made.size is not size:  # it was told another while it started
            await frames.send(Type.RESIZE, dict(made.size))
        return frames

    async def _attached(self, call: Call, made: Exec) -> None:
        client = await call.hijack(multiplexed=not made.tty)
        try:
            try:
                frames = await self._open(made)
            except (RefusedError, LostError) as exc:
                # As Docker: the connection is taken over already, so the reason goes where output goes.
                words = f"hyper: cannot run {made.argv[0]}: {exc}\r\n".encode()
                await client.send(encode(Type.STDERR, words, raw=made.tty))
                return
            code = await carry(client, frames, raw=made.tty, stdin=made.stdin, wanted=made.wanted, keys=made.keys)
            self._end(made, code)
        except OSError as exc:
            log.debug("exec %s: the client is gone: %s", made.id[:12], exc)
        finally:
            if made.frames:
                self._end(made, None)
            await client.end()

    async def _detached(self, made: Exec) -> None:
        assert made.frames

        class Nobody:
            async def receive(self) -> bytes:
                return b""

            async def send(self, data: bytes) -> None:
                pass

        code = await carry(Nobody(), made.frames, raw=True, stdin=True, wanted=frozenset())
        self._end(made, code)

    def _end(self, made: Exec, code: int | None) -> None:
        """It has ended, or nobody is left to say so (then its stream closes, and the guest ends it)."""
        if made.frames:
            made.frames.close()
            made.frames = None
        made.code = 137 if code is None else code
        self._sandboxes.tell(made.box, "exec_die", execID=made.id, exitCode=str(made.code))

    def _get(self, call: Call) -> Exec:
        made = self._execs.get(call.params["id"])
        if made is None:
            raise NotFoundError(f"No such exec instance: {call.params['id']}", hint="create one first")
        return made

    def _keep(self, made: Exec) -> None:
        self._execs[made.id] = made
        ended = [ident for ident, each in self._execs.items() if not each.running]
        for ident in ended[: max(0, len(ended) - _KEPT)]:
            del self._execs[ident]


def _wanted(body: dict[str, Any]) -> frozenset[Type]:
    names = {"AttachStdout": Type.STDOUT, "AttachStderr": Type.STDERR}
    return frozenset(kind for name, kind in names.items() if body.get(name))
