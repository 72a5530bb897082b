"""A shim without a machine: ``python -m tests.fakes.shim ID`` runs the sandbox's program on this host.

It speaks the control protocol of ``hyper_kernel.shim`` and keeps the same files. Its root is a folder. Labels steer
it: ``fake.boot=fail`` panics, ``fake.boot=fail-once:PATH`` if it is the first to make PATH, ``fake.boot=hang`` never
comes up.
"""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tarfile
import termios
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hyper_kernel import wire
from hyper_kernel.host.usage import read_own_cpu_s
from hyper_kernel.link import Frames
from hyper_kernel.paths import find_paths
from hyper_kernel.sandbox.record import MISSED, Record, State
from hyper_kernel.spec import Owner
from hyper_kernel.wire import MAX_DATA, Type

_NAMES = {Type.STDOUT: "stdout", Type.STDERR: "stderr"}


class Process:
    """A program of the host, with a terminal or with pipes."""

    def __init__(self, argv, *, env, cwd, tty):
        self.argv, self.tty = argv, tty
        self._env = {"PATH": os.environ["PATH"], **env}
        self._cwd = cwd
        self._terminal = None
        self.pid = 0

    async def start(self):
        """:raise FileNotFoundError, PermissionError: as the system says."""
        args = {"env": self._env, "cwd": self._cwd, "start_new_session": True}
        if self.tty:
            self._terminal, theirs = os.openpty()
            args |= {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            args["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        else:
            args |= dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        self._process = await asyncio.create_subprocess_exec(*self.argv, **args)
        if self.tty:
            os.close(theirs)
        self.pid = self._process.pid

    async def run(self, on_output):
        """Its exit as ``{code, signal}``."""
        if self.tty:
            await self._read_terminal(on_output)
        else:
            await asyncio.gather(
                _read(self._process.stdout, Type.STDOUT, on_output), _read(self._process.stderr, Type.STDERR, on_output)
            )
        code = await self._process.wait()
        return {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}

    async def _read_terminal(self, on_output):
        while True:
            try:
                data = await asyncio.to_thread(os.read, self._terminal, 4096)
            except OSError:
                return
            if not data:
                return
            await on_output(Type.STDOUT, data)

    def take(self, kind, payload):
        """A frame of a client's."""
        with contextlib.suppress(ProcessLookupError, ConnectionError, OSError):
            if kind is Type.STDIN:
                if self.tty:
                    os.write(self._terminal, payload)
                else:
                    self._process.stdin.write(payload)
            elif kind is Type.STDIN_EOF and not self.tty:
                self._process.stdin.close()
            elif kind is Type.RESIZE:
                size = wire.parse(kind, payload)
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", size["rows"], size["cols"], 0, 0))
            elif kind is Type.SIGNAL:
                self.signal(wire.parse(kind, payload)["signal"])

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.killpg(self.pid, number)


async def _read(stream, kind, on_output):
    while data := await stream.read(MAX_DATA):
        await on_output(kind, data)


def _is_first(path):
    """Whether nobody has made a folder before us."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


class FakeShim:
    def __init__(self, paths, sandbox_id, listener):
        self.listener = listener
        self.sandboxes = paths.sandboxes
        self.folder = paths.sandboxes / sandbox_id
        self.run_folder = paths.sandbox_run(sandbox_id)
        self.channels = paths.channels
        self.record = Record.load(self.folder)
        self.root = self.folder / "root"
        self.root.mkdir(exist_ok=True)
        self.watchers, self.attached, self.execs = set(), set(), set()
        self.log = (self.folder / "output.jsonl").open("w")
        self.sent = []
        self.end = asyncio.get_running_loop().create_future()
        self.process = None
        self.started = asyncio.Event()
        self.exit = None

    async def run(self):
        self.listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(self.listener))
        await self._change(state=State.BOOTING, started_s=time.time(), shim_pid=os.getpid())
        reason, code = await self._live()
        for process in filter(None, (self.process, *self.execs)):  # they go with their machine
            process.signal(signal.SIGKILL)
        self.exit = {"code": code, "signal": None}
        await self._deliver(Type.EXIT, self.exit)
        await self._change(
            state=State.EXITED, exit_code=code, reason=reason, finished_s=time.time(), cpu_s=read_own_cpu_s()
        )
        shutil.rmtree(self.run_folder, ignore_errors=True)
        accepting.cancel()

    async def _live(self):
        boot, _, path = self.record.spec.labels.get("fake.boot", "").partition(":")
        if boot == "fail" or (boot == "fail-once" and _is_first(path)):
            (self.folder / "console.log").write_text("Linux version 0.fake\nKernel panic - not syncing: fake\n")
            return "the guest panicked", 125
        if boot == "hang":
            return await self.end
        process = self.record.spec.process
        if self.record.spec.kernel is None:
            env = dict(entry.split("=", 1) for entry in process.env)
            self.process = Process(process.argv, env=env, cwd=self.root, tty=process.tty)
            try:
                await self.process.start()
            except (FileNotFoundError, PermissionError) as exc:
                return f"{process.argv[0]}: {exc.strerror}", 127 if isinstance(exc, FileNotFoundError) else 126
            self.started.set()
            if not process.open_stdin:
                self.process.take(Type.STDIN_EOF, b"")
            running = asyncio.create_task(self._run_program())
            running.add_done_callback(lambda task: None)
        else:
            ip = str(self.channels(self.record.spec.kernel.channels or self.record.id[:8]))
            ports = {f"{name}_port": at for at, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
            self.record = self.record.changed(connection={"transport": "ipc", "ip": ip, **ports})
        await self._change(state=State.RUNNING, tier="software")
        return await self.end

    async def _run_program(self):
        ended = await self.process.run(self._output)
        code = ended["code"] if ended["code"] is not None else 128 + ended["signal"]
        self._end("", code)

    def _end(self, reason, code):
        if not self.end.done():
            self.end.set_result((reason, code))

    async def _output(self, kind, data):
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {"log": data.decode(errors="replace"), "stream": _NAMES[kind], "time": now}
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()
        self.sent.append((kind, data))
        await self._deliver(kind, data)

    async def _deliver(self, kind, payload):
        for frames in tuple(self.attached):
            with contextlib.suppress(OSError):
                await frames.send(kind, payload)

    async def _change(self, **changes):
        self.record = self.record.changed(**changes)
        self.record.save(self.sandboxes)
        for frames in tuple(self.watchers):
            with contextlib.suppress(OSError):
                await frames.send(Type.EVENT, {"event": "record", "record": self.record.as_dict()})

    async def _accept(self, listener):
        tasks = set()
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            client.setblocking(False)
            tasks.add(asyncio.create_task(self._serve(Frames(client))))

    async def _serve(self, frames):
        async for kind, payload in frames:
            message = wire.parse(kind, payload)
            if kind is Type.OPEN:
                await self._stream(frames, message)
                frames.close()
                return
            try:
                result = await self._call(frames, message["op"], message["args"])
                await frames.send(Type.REPLY, {"id": message["id"], "result": result or {}})
            except (KeyError, ValueError) as exc:
                await frames.send(Type.REPLY, {"id": message["id"], "error": repr(exc)})
        self.watchers.discard(frames)

    async def _call(self, frames, op, args):
        if op == "watch":
            self.watchers.add(frames)
            return {"record": self.record.as_dict()}
        if op == "ping":
            return {}
        if op == "stats":
            return {"guest": {"processes": 3}}
        if op == "kill":
            if self.process:
                self.process.signal(signal.SIGKILL)
            self.record = self.record.changed(death=args.get("death", "killed"))
            self._end(args.get("reason", "killed"), 137)
        elif op == "stop":
            await self._stop(args["timeout_s"])
        elif op == "signal":
            if self.process is None:
                raise ValueError("not running")
            self.process.signal(args["signal"])
        elif op == "resize":
            self.process.take(Type.RESIZE, json.dumps(args).encode())
        elif op == "kernel.signal":
            if args["signal"] == signal.SIGKILL:
                await self._change(exit_code=137)
        elif op == "kernel.keep":
            return {"count": 0}
        elif op == "kernel.missed":
            (self.folder / MISSED).write_text('{"channel": "iopub", "parts": ["bWlzc2Vk"]}\n')
            return {"is_cut": True}
        elif op == "own":
            await self._change(spec=replace(self.record.spec, owner=Owner(**args["owner"])))
        else:
            raise ValueError(op)
        return {}

    async def _stop(self, timeout_s):
        if self.process:
            self.process.signal(signal.SIGTERM)
            await asyncio.wait([self.end], timeout=timeout_s)
            self.process.signal(signal.SIGKILL)
            self._end(f"killed: it did not end within {timeout_s:g} s of SIGTERM", 137)
        self._end("", 0)

    async def _stream(self, frames, message):
        serve = {"attach": self._attach, "exec": self._exec, "put": self._put, "get": self._get}[message["kind"]]
        with contextlib.suppress(OSError):
            await serve(frames, message)

    async def _attach(self, frames, message):
        await frames.send(Type.OPENED)
        done = 0
        while message["backlog"] and done < len(self.sent):  # more may come while this is sent
            await frames.send(*self.sent[done])
            done += 1
        if self.exit:
            await frames.send(Type.EXIT, self.exit)
            return
        self.attached.add(frames)
        async for kind, payload in frames:
            await self.started.wait()
            if message["stdin"] or kind is Type.RESIZE:
                self.process.take(kind, payload)
        self.attached.discard(frames)

    async def _exec(self, frames, message):
        process = Process(message["argv"], env=message["env"], cwd=message["cwd"] or self.root, tty=message["tty"])
        try:
            await process.start()
        except (FileNotFoundError, PermissionError) as exc:
            code = 127 if isinstance(exc, FileNotFoundError) else 126
            await frames.send(Type.REFUSED, {"error": f"{exc.strerror}", "code": code})
            return
        self.execs.add(process)
        await frames.send(Type.OPENED, {"pid": process.pid})
        running = asyncio.create_task(process.run(frames.send))
        reading = asyncio.create_task(self._feed(frames, process))
        await frames.send(Type.EXIT, await running)
        self.execs.discard(process)
        reading.cancel()

    async def _feed(self, frames, process):
        async for kind, payload in frames:
            process.take(kind, payload)
        process.signal(signal.SIGKILL)

    def _path(self, path):
        return self.root / path.strip("/")

    async def _put(self, frames, message):
        await frames.send(Type.OPENED)
        data = b""
        async for kind, payload in frames:
            if kind is Type.STDIN_EOF:
                break
            data += payload
        target = self._path(message["path"])
        if not target.is_dir():
            await frames.send(Type.STDERR, f"no such file or directory: {message['path']}".encode())
            await frames.send(Type.EXIT, {"code": 1, "signal": None})
            return
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(target)
        await frames.send(Type.EXIT, {"code": 0, "signal": None})

    async def _get(self, frames, message):
        source = self._path(message["path"])
        await frames.send(Type.OPENED)
        if not os.path.lexists(source):
            await frames.send(Type.STDERR, f"no such file or directory: {message['path']}".encode())
            await frames.send(Type.EXIT, {"code": 1, "signal": None})
            return
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(source, arcname=source.name)
        for start in range(0, buffer.tell(), MAX_DATA):
            await frames.send(Type.STDOUT, buffer.getvalue()[start : start + MAX_DATA])
        await frames.send(Type.EXIT, {"code": 0, "signal": None})


async def main():
    await FakeShim(find_paths(), sys.argv[1], socket.socket(fileno=int(sys.argv[2]))).run()


if __name__ == "__main__":
    log = find_paths().sandboxes / sys.argv[1] / "shim.log"
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    Path("/proc/self/comm").write_text("fake-shim")
    asyncio.run(main())
