"""The guest's agent in a process of its own on this host, and the host's side of its streams, blocking."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyper_kernel import wire
from hyper_kernel.wire import Type

ROOT = Path(__file__).parents[2]
#: The agent reaps every child of its process, so it cannot live in the tests' own. Its identity stays the host's.
_AGENT = """
import signal, socket, sys, threading
from guest.agent import Agent
from guest.cage import Cage
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as for process 1, however the tests were started
listener = socket.socket(fileno=int(sys.argv[1]))
listener.set_inheritable(False)
agent = Agent("", lambda args, root: None, Cage(sys.argv[2], "/"))
agent.start()
agent.listen(listener)
"""
_PATIENCE_S = 20.0
IMAGE = {"env": ["PATH=/usr/local/bin:/usr/bin:/bin", "COLOUR=blue"], "user": "", "cwd": "/"}


class Stream:
    """One connection to the agent."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(path)
        self._frames = self._read()

    def send(self, kind: Type, payload=b"") -> None:
        self.sock.sendall(wire.pack(kind, payload))

    def send_stdin(self, data: bytes) -> None:
        for start in range(0, len(data), wire.MAX_DATA):
            self.send(Type.STDIN, data[start : start + wire.MAX_DATA])

    def open(self, kind: str, **args) -> tuple[Type, dict]:
        self.send(Type.OPEN, {"kind": kind, **args})
        return self.receive()

    def receive(self) -> tuple[Type, dict]:
        """The next frame that is not data."""
        kind, payload = next(self._frames)
        return kind, wire.parse(kind, payload)

    def receive_raw(self) -> tuple[Type, bytes]:
        return next(self._frames)

    def receive_all(self) -> tuple[dict, bytes, bytes]:
        """To the end: what EXIT says, standard output, standard error."""
        collected = {Type.STDOUT: b"", Type.STDERR: b""}
        for kind, payload in self._frames:
            if kind is Type.EXIT:
                assert next(self._frames, None) is None, "EXIT is the last frame"
                return wire.parse(kind, payload), collected[Type.STDOUT], collected[Type.STDERR]
            collected[kind] += payload
        raise AssertionError("the stream ended without EXIT")

    def receive_end(self) -> tuple[int | None, int | None]:
        """To the end: code and signal."""
        end = self.receive_all()[0]
        return end["code"], end["signal"]

    def close(self) -> None:
        self.sock.close()

    def _read(self) -> Iterator[tuple[Type, bytes]]:
        decoder = wire.Decoder()
        while data := self.sock.recv(65536):
            yield from decoder.feed(data)


class AgentPeer:
    """A running agent. Use :func:`start_agent`."""

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self.pid = pid
        self._opened: list[Stream] = []

    def dial(self) -> Stream:
        stream = Stream(self._path)
        self._opened.append(stream)
        return stream

    def meet(self) -> Stream:
        """A control stream after HELLO and WELCOME."""
        control = self.dial()
        kind, hello = control.open("control")
        assert (kind, hello["version"]) == (Type.HELLO, wire.VERSION)
        control.send(Type.WELCOME, {"version": wire.VERSION})
        return control

    def ready(self) -> Stream:
        """A control stream after resync."""
        control = self.meet()
        assert request(control, "resync", image=IMAGE, processes=100) == {"id": 1, "result": {}}
        return control

    def exec(self, *argv: str, **args) -> Stream:
        """An exec stream that was opened."""
        stream = self.dial()
        kind, answer = stream.open("exec", **{"argv": argv, **args})
        assert kind is Type.OPENED, answer
        return stream

    def close(self) -> None:
        for stream in self._opened:
            stream.close()


def request(control: Stream, op: str, **args) -> dict:
    """The reply to a request."""
    control.send(Type.REQUEST, {"id": 1, "op": op, "args": args})
    kind, reply = control.receive()
    assert kind is Type.REPLY
    return reply


def make_cage(folder: Path) -> Path:
    """What looks like a cgroup, and holds nothing."""
    cage = folder / "cage"
    cage.mkdir()
    files = {"cgroup.procs": "", "memory.events": "low 0\noom 2\noom_kill 1\n", "pids.events": "max 3\n"}
    for name, text in (files | {"pids.current": "7\n"}).items():
        (cage / name).write_text(text)
    return cage


@contextmanager
def start_agent(folder: Path) -> Iterator[AgentPeer]:
    """An agent on a Unix socket; afterwards it must still live, with no child left, and is ended."""
    path = str(folder / "agent.sock")
    cage = make_cage(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", _AGENT, str(fd), str(cage)], pass_fds=[fd], cwd=ROOT, process_group=0
        )
    peer = AgentPeer(path, process.pid)
    try:
        yield peer
        assert process.poll() is None, "the agent ended"
    finally:
        peer.close()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
