"""One kernel in one sandbox: start it, run cells in it, hear what they show, end it."""

import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from queue import Empty
from typing import Any, Self, cast

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import KernelConnectionInfo

from hyper_kernel.client import Client, State
from hyper_kernel.errors import ConflictError, GuestError, HyperError, LostError, NotFoundError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.host.tar import TarReader
from hyper_kernel.sandbox.words import printable
from hyper_kernel.spec import KernelSpec, Owner, SandboxSpec

#: What a cell shows: the type and the content of a message of Jupyter's protocol.
Shows = Callable[[str, dict[str, Any]], None]
#: Answers a question: what is asked, and whether it is for a password.
Asks = Callable[[str, bool], str]

_SIGINT = 2
#: What a shim answers in place of a kernel that is gone.
_DEAD = "DeadKernelError"
#: The label of sandboxes that sessions start: the process they belong to.
_LABEL = "hyper.session"
#: How long a kernel that runs may take to answer, in seconds, and how often it is asked until it is heard.
_READY_S = 60.0
_ASK_AGAIN_S = 0.5
#: How long hyperd may take to find out how a sandbox ended whose connections broke, in seconds.
_END_S = 10.0
#: Of the ZeroMQ library by itself: 1023, which is enough for 200 sandboxes.
_MAX_SOCKETS = 16_384


class EndedError(GuestError):
    """A sandbox, or the kernel in it, has ended; the message says why."""


class _KernelClient(BlockingKernelClient):
    """Tells when its stdin channel is there: a kernel that asks on it earlier asks nobody, and waits for ever.

    A router drops what is for a peer that it does not know (zmq_socket(7)).
    """

    #: Says so once, from the moment of connecting on.
    stdin_monitor: zmq.Socket[bytes]

    def connect_stdin(self, identity: bytes | None = None) -> zmq.Socket[bytes]:
        """As jupyter_client's, but watched before it connects."""
        socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        socket.linger = 1000
        if identity:
            socket.identity = identity
        self.stdin_monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(self._make_url("stdin"))
        return socket


class Session:
    """A kernel that runs in a sandbox of its own; made by :meth:`start`. For one thread at a time.

    The sandbox belongs to this process and ends with it at the latest.
    """

    def __init__(self, client: Client, started: dict[str, Any], key: str, spec: SandboxSpec, name: str) -> None:
        self.id: str = started["id"]
        self.name = name or started["name"]
        #: What was asked for.
        self.spec = spec
        #: The version of the Python that runs in it; empty where it is no Python.
        self.python: tuple[int, ...] = ()
        #: Names of modules that were put into it.
        self.modules: set[str] = set()
        self._client = client
        #: How it ended; None while it lives, as far as is known.
        self.end: HyperError | None = None
        self._is_closed = self._has_stopped = False
        self._kernel = _KernelClient(context=_context(os.getpid()))
        signing: dict[str, Any] = {"key": key.encode(), "signature_scheme": "hmac-sha256"}
        self._kernel.load_connection_info(cast("KernelConnectionInfo", started["connection"] | signing))
        self._monitor = self._kernel.shell_channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        #: What is listened to, in the order in which it is read: outputs before the reply that ends them.
        self._channels = {
            channel.socket: (name, channel)
            for name, channel in (
                ("iopub", self._kernel.iopub_channel),
                ("stdin", self._kernel.stdin_channel),
                ("shell", self._kernel.shell_channel),
            )
        }
        self._poller = zmq.Poller()
        for socket in (*self._channels, self._monitor):
            self._poller.register(socket, zmq.POLLIN)

    @classmethod
    def start(cls, client: Client, spec: SandboxSpec, *, name: str = "") -> Self:
        """Start a sandbox and wait until its kernel answers; nothing is left of one that does not.

        :param spec: ``kernel`` may be None: then the image's first, without files.
        :param name: what to call it; empty: hyperd chooses.
        :raise ConflictError: the name is in use.
        :raise HyperError: it does not start.
        """
        if name:
            _make_free(client, name)
        key = secrets.token_hex(32)
        owner = Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()))
        kernel = replace(spec.kernel or KernelSpec(files="none"), key=key)
        labels = {**spec.labels, _LABEL: str(os.getpid())}
        started = client.start_kernel(replace(spec, kernel=kernel, owner=owner, labels=labels))
        try:
            if name:
                client.rename(started["id"], name)
            session = cls(client, started, key, spec, name)
            try:
                session._connect()
            except BaseException:
                session.close()
                raise
        except BaseException:
            with suppress(HyperError):
                client.remove_kernel(started["id"])
            raise
        return session

    def __repr__(self) -> str:
        return f"<Session {self.name} {'over' if self.end or self._is_closed else 'open'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        buffers: Iterable[bytes] = (),
        expressions: Mapping[str, str] | None = None,
        shows: Shows | None = None,
        asks: Asks | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, Any]:
        """Run a cell to its end.

        :param buffers: go along with the message.
        :param expressions: evaluated in the kernel after the cell; see ``user_expressions`` of Jupyter's protocol.
        :param shows: called for all that it shows, errors among it, in order.
        :param asks: called where it wants input; None: it may not.
        :param deadline_s: a moment of ``time.monotonic()``.
        :return: the content of the reply, whose ``status`` is ``ok``, ``error`` or ``aborted``.
        :raise EndedError: the kernel is gone.
        :raise TimeoutError: it is over the deadline; the cell still runs.
        """
        if self.end:
            raise self.end
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": dict(expressions or {}),
            "allow_stdin": asks is not None,
            "stop_on_error": False,
        }
        message = self._kernel.session.msg("execute_request", content)
        self._kernel.session.send(self._kernel.shell_channel.socket, message, buffers=list(buffers))
        return self._follow(message["header"]["msg_id"], shows, asks, deadline_s)

    def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl-C does. May be called from a signal's handler or another thread."""
        with suppress(HyperError):
            self._client.signal_kernel(self.id, _SIGINT)

    def read_file(self, path: str, most: int) -> bytes:
        """A file in the sandbox.

        :raise GuestError: it is none, or has more than ``most`` bytes.
        """
        with self._client.get_archive(self.id, path) as archive:
            reader = TarReader(archive)
            entry = next(iter(reader), None)
            # SECURITY: the guest says what the size is; no more than that is read.
            if entry is None or entry.kind != "file" or entry.size > most:
                raise GuestError(f"{path} in sandbox {self.name} is no file of at most {most >> 20} MiB")
            return b"".join(reader.content())

    def is_alive(self) -> bool:
        """Whether it can run a cell, as far as is known without asking."""
        if self._is_closed:
            return False
        if self.end is None and self._monitor.poll(0):
            self._monitor.recv_multipart()
            self.end = self._find_end()
        return self.end is None

    def kill(self) -> None:
        """Remove the sandbox; again: does nothing. May be called from another thread, whose cell then ends."""
        if not self._is_closed:
            self._is_closed = True
            with suppress(HyperError):
                self._client.remove_kernel(self.id)

    def close(self) -> None:
        """Remove the sandbox and close the connections; again: does nothing."""
        if self._has_stopped:
            return
        self._has_stopped = True
        # First of all: an event that nobody is there to take would hold ZeroMQ's thread, and all sessions with it.
        for channel, monitor in (
            (self._kernel.shell_channel, self._monitor),
            (self._kernel.stdin_channel, self._kernel.stdin_monitor),
        ):
            channel.socket.disable_monitor()
            monitor.close()
        self.kill()
        self._kernel.stop_channels()

    def _connect(self) -> None:
        """Wait until the kernel has answered, its outputs are heard, and it can ask for input."""
        deadline_s, version, is_heard = time.monotonic() + _READY_S, None, False
        while version is None or not is_heard:
            if time.monotonic() > deadline_s:
                raise EndedError(f"the kernel of sandbox {self.name} does not answer", hint="look with: hyper ps -a")
            self._kernel.kernel_info()
            for channel, message in self._messages(time.monotonic() + _ASK_AGAIN_S):
                # A subscription takes its time (the slow joiner of ZeroMQ's guide): any output tells that it is there.
                is_heard = is_heard or channel == "iopub"
                if message["msg_type"] == "kernel_info_reply":
                    version = message["content"].get("language_info") or {}
                if is_heard and version is not None:
                    break
        if not self._kernel.stdin_monitor.poll(max(0, int(1000 * (deadline_s - time.monotonic())))):
            raise EndedError(f"the kernel of sandbox {self.name} cannot ask for input", hint="look with: hyper ps -a")
        if version.get("name") == "python":
            words = str(version.get("version")).split(".")[:2]
            self.python = tuple(int(word) for word in words if word.isdigit())

    def _follow(self, ident: str, shows: Shows | None, asks: Asks | None, deadline_s: float | None) -> dict[str, Any]:
        """Take messages that answer a request, until its reply and its last output are there."""
        reply: dict[str, Any] | None = None
        is_idle = False
        for channel, message in self._messages(deadline_s):
            # What older cells still print has other parents.
            if message["parent_header"].get("msg_id") != ident:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_reply":
                reply = content
            elif kind == "status":
                is_idle = is_idle or content.get("execution_state") == "idle"
            elif kind == "input_request" and asks:
                self._kernel.input(asks(str(content.get("prompt", "")), bool(content.get("password"))))
            elif channel == "iopub" and shows:
                shows(kind, content)
            if reply is not None and reply.get("ename") == _DEAD:
                # By what the shim found, or by the kernel's own word, which harms nobody but itself.
                self.end = EndedError(f"sandbox {self.name} ended: {printable(str(reply.get('evalue')))[:500]}")
                raise self.end
            if is_idle and reply is not None:
                return reply
        raise TimeoutError(f"the cell in sandbox {self.name} takes too long")

    def _messages(self, deadline_s: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Messages as they come, those of the shell last; ends at the deadline.

        :raise EndedError: nothing will come any more.
        """
        is_broken = False
        while True:
            wait_ms = 0 if is_broken else None
            if deadline_s is not None and not is_broken:
                wait_ms = max(0, int(1000 * (deadline_s - time.monotonic())))
            ready = dict(self._poller.poll(wait_ms))
            if not ready:
                if not is_broken:
                    return
                self.end = self._find_end()
                raise self.end
            if self._monitor in ready:
                self._monitor.recv_multipart()
                is_broken = True
            for socket, (name, channel) in self._channels.items():
                if socket in ready:
                    with suppress(Empty):
                        yield name, channel.get_msg(timeout=0)

    def _find_end(self) -> HyperError:
        """Why the connections broke."""
        if self._is_closed:
            return EndedError(f"sandbox {self.name} was ended")
        try:
            facts = self._client.wait_kernel(self.id, _END_S)
        except NotFoundError:
            return EndedError(f"sandbox {self.name} was removed")
        if facts["state"] != "exited":
            return LostError(f"the connections to sandbox {self.name} broke", hint="look with: hyper ps -a")
        return EndedError(f"sandbox {self.name} ended: {facts['reason'] or 'its kernel exited'}")


@functools.cache
def _context(pid: int) -> zmq.Context[zmq.Socket[bytes]]:
    """One for all sessions of a process; a fork gets its own."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    return context


def _make_free(client: Client, name: str) -> None:
    """Remove what a session of an earlier process left under a name: its record.

    :raise ConflictError: the name is in use.
    """
    with suppress(NotFoundError):
        record = client.sandbox(name)
        if record.state is not State.EXITED or _LABEL not in record.spec.labels:
            raise ConflictError(
                f"there is a sandbox {name} already, of another notebook or program", hint="take another name"
            )
        client.remove(record.id)
