"""Typed calls to hyperd."""

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPResponse
from typing import Any, Self
from urllib.parse import quote

from hyper_kernel.client.http import (
    TIMEOUT_S,
    is_multiplexed,
    make_url,
    quote_part,
    read_lines,
)
from hyper_kernel.client.review import ReviewCalls
from hyper_kernel.client.stream import Exec, Stream, demultiplex, read_raw
from hyper_kernel.errors import NotFoundError
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, Owner, SandboxSpec

#: Starting a machine may take long on a busy host without KVM; hyperd itself has the deadline.
_START_S = 300.0


@dataclass(frozen=True, slots=True)
class End:
    """How a sandbox ended: its program's exit code, and the reason where it did not end by itself."""

    code: int
    reason: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """From the answer of ``POST /containers/{id}/wait``."""
        return cls(int(data["StatusCode"]), str((data.get("Hyper") or {}).get("Reason") or ""))


class Client(ReviewCalls):
    """hyperd, as doors see it. Safe to use from many threads: every call has a connection of its own.

    Every method raises the families of ``errors``: what hyperd says, ``HostError`` when it cannot be reached, and
    ``LostError`` when it went away in between.

    :param start: whether hyperd is started (or replaced, when it is of another version) where needed.
    """

    # -- hyperd -------------------------------------------------------------------------------------------------

    def version(self) -> dict[str, Any]:
        """As ``GET /version`` of Docker's API."""
        return self._json("GET", "/version")

    def info(self) -> dict[str, Any]:
        """As ``GET /info`` of Docker's API."""
        return self._json("GET", "/info")

    def status(self) -> dict[str, Any]:
        """hyperd's process: version, pid, socket, sandboxes, alive, parked, tier, tier_reason."""
        return self._json("GET", "/hyper/v1/status")

    def policy(self) -> dict[str, Any]:
        """What hyperd's policy allows, see ``daemon.policy.Rules.describe``."""
        return self._json("GET", "/hyper/v1/policy")

    def admit(self, spec: SandboxSpec) -> SandboxSpec:
        """What a sandbox that asks for this would get, by policy as it is now; nothing is started.

        :raise DeniedError: it would be refused; the message names the cap.
        """
        return SandboxSpec.from_dict(self._json("POST", "/hyper/v1/policy/admit", body=spec.as_dict(), again=True))

    def events(self, *, since: str = "", until: str = "", filters: dict[str, list[str]] | None = None) -> Iterator[Any]:
        """Events as they happen; see Docker's ``GET /events``."""
        query = {"since": since, "until": until, "filters": json.dumps(filters or {})}
        with self._open("GET", "/events", query, timeout_s=None) as response:
            for line in response:
                yield json.loads(line)

    # -- sandboxes ----------------------------------------------------------------------------------------------

    def sandboxes(self, *, everything: bool = False, liveness: bool = False) -> list[Record]:
        """Sandboxes, newest first; those that live, or ``everything``.

        :param liveness: measure how lively each is, which takes a moment.
        """
        data = self._json("GET", "/hyper/v1/sandboxes", {"all": int(everything), "liveness": int(liveness)})
        return [Record.from_dict(record) for record in data["sandboxes"]]

    def sandbox(self, ref: str) -> Record:
        """The sandbox of a name, an id or the start of one."""
        return Record.from_dict(self._json("GET", f"/hyper/v1/sandboxes/{quote_part(ref)}"))

    def inspect(self, ref: str) -> dict[str, Any]:
        """As ``GET /containers/{id}/json`` of Docker's API."""
        return self._json("GET", f"/containers/{quote_part(ref)}/json")

    def create(self, spec: SandboxSpec, name: str = "") -> Record:
        """Record a sandbox; :meth:`start` gives it a machine."""
        return Record.from_dict(self._json("POST", "/hyper/v1/sandboxes", body={"name": name, "spec": spec.as_dict()}))

    def start(self, ref: str) -> None:
        """Start it; returns when its program runs. Does nothing to one that is live."""
        self._do("POST", f"/containers/{quote_part(ref)}/start", timeout_s=_START_S)

    def stop(self, ref: str, timeout_s: float = 10.0) -> bool:
        """End its program, by force after ``timeout_s``; whether it was live."""
        path = f"/containers/{quote_part(ref)}/stop"
        return self._do("POST", path, {"t": timeout_s}, timeout_s=timeout_s + TIMEOUT_S) != 304

    def restart(self, ref: str, timeout_s: float = 10.0) -> None:
        """Stop and start it."""
        self._do("POST", f"/containers/{quote_part(ref)}/restart", {"t": timeout_s}, timeout_s=timeout_s + _START_S)

    def kill(self, ref: str, signal: str = "KILL") -> None:
        """Send a signal to its program."""
        self._do("POST", f"/containers/{quote_part(ref)}/kill", {"signal": signal})

    def remove(self, ref: str, *, force: bool = False) -> None:
        """Forget it; a live one only with ``force``."""
        self._do("DELETE", f"/containers/{quote_part(ref)}", {"force": int(force)})

    def rename(self, ref: str, name: str) -> None:
        """Give it another name."""
        self._do("POST", f"/containers/{quote_part(ref)}/rename", {"name": name})

    def wait(self, ref: str, condition: str = "not-running") -> int:
        """Wait until ``not-running``, ``next-exit`` or ``removed``; its program's exit code."""
        with self.waiting(ref, condition) as ends:
            return next(ends).code

    @contextmanager
    def waiting(self, ref: str, condition: str = "next-exit") -> Iterator[Iterator[End]]:
        """Begin to wait, and yield an iterator whose one value is the end: none from here on is missed."""
        path = f"/containers/{quote_part(ref)}/wait"
        with self._open("POST", path, {"condition": condition}, timeout_s=None) as response:
            yield (End.from_json(json.loads(line)) for line in read_lines(response))

    def resize(self, ref: str, rows: int, cols: int) -> None:
        """Tell its terminal the size."""
        self._do("POST", f"/containers/{quote_part(ref)}/resize", {"h": rows, "w": cols})

    def stats(self, ref: str) -> dict[str, Any]:
        """As ``GET /containers/{id}/stats`` of Docker's API, once."""
        return self._json("GET", f"/containers/{quote_part(ref)}/stats", {"stream": 0, "one-shot": 1})

    def logs(
        self, ref: str, *, follow: bool = False, tail: str = "all", timestamps: bool = False, since: str = ""
    ) -> Iterator[tuple[int, bytes]]:
        """What its program has written, as ``(1 or 2, bytes)``; with ``follow`` also what it will write."""
        query = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": tail, "timestamps": int(timestamps)}
        path = f"/containers/{quote_part(ref)}/logs"
        with self._open("GET", path, {**query, "since": since}, timeout_s=None if follow else TIMEOUT_S) as response:
            yield from demultiplex(response) if is_multiplexed(response) else read_raw(response)

    def attach(self, ref: str, *, stdin: bool = False, logs: bool = False) -> Stream:
        """Its main program's stream; before a start, output comes once it runs."""
        query = {"stream": 1, "stdout": 1, "stderr": 1, "stdin": int(stdin), "logs": int(logs)}
        return self._hijack(f"/containers/{quote_part(ref)}/attach", query)

    def exec(
        self,
        ref: str,
        argv: Iterable[str],
        *,
        env: Iterable[str] = (),
        cwd: str = "",
        user: str = "",
        tty: bool = False,
        stdin: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Exec:
        """Start a program in a running sandbox.

        :param env: ``NAME=value`` each.
        :param size: rows and columns of the terminal.
        """
        body = {
            "Cmd": list(argv),
            "Env": list(env),
            "WorkingDir": cwd,
            "User": user,
            "Tty": tty,
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
        }
        ident = self._json("POST", f"/containers/{quote_part(ref)}/exec", body=body)["Id"]
        start = {"Detach": False, "Tty": tty} | ({"ConsoleSize": list(size)} if size else {})
        return Exec(ident, self._hijack(f"/exec/{ident}/start", {}, start))

    def exec_code(self, ident: str) -> int:
        """The exit code of a program started by :meth:`exec`, once its stream has ended."""
        code = self._json("GET", f"/exec/{ident}/json")["ExitCode"]
        return -1 if code is None else int(code)

    def resize_exec(self, ident: str, rows: int, cols: int) -> None:
        """Tell the terminal of a program started by :meth:`exec` its size."""
        self._do("POST", f"/exec/{ident}/resize", {"h": rows, "w": cols})

    @contextmanager
    def get_archive(self, ref: str, path: str) -> Iterator[HTTPResponse]:
        """A file that reads as a tar archive of a path in a running sandbox."""
        with self._open("GET", f"/containers/{quote_part(ref)}/archive", {"path": path}) as response:
            yield response

    def stat_path(self, ref: str, path: str) -> dict[str, Any] | None:
        """What a path in a running sandbox is: name, size, mode (Go's bits), mtime, linkTarget; None where nothing."""
        try:
            with self._open("HEAD", f"/containers/{quote_part(ref)}/archive", {"path": path}) as response:
                header = response.getheader("X-Docker-Container-Path-Stat") or ""
        except NotFoundError:
            return None
        facts: dict[str, Any] = json.loads(base64.b64decode(header))
        return facts

    def put_archive(self, ref: str, path: str, archive: Iterable[bytes]) -> None:
        """Unpack a tar archive below a folder in a running sandbox."""
        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        path_query = make_url(f"/containers/{quote_part(ref)}/archive", {"path": path})
        connection, response = self._request("PUT", path_query, archive, headers, None)
        with closing(connection):
            response.read()

    # -- images -------------------------------------------------------------------------------------------------

    def images(self) -> list[dict[str, Any]]:
        """As ``GET /images/json`` of Docker's API."""
        images: list[dict[str, Any]] = self._value("GET", "/images/json")
        return images

    def image(self, ref: str) -> dict[str, Any]:
        """As ``GET /images/{name}/json`` of Docker's API."""
        return self._json("GET", f"/images/{quote(ref)}/json")

    def remove_image(self, ref: str) -> list[dict[str, str]]:
        """Take a name away, and the image with its last one."""
        gone: list[dict[str, str]] = self._value("DELETE", f"/images/{quote(ref)}")
        return gone

    # -- kernels ------------------------------------------------------------------------------------------------

    def start_kernel(self, spec: SandboxSpec) -> dict[str, Any]:
        """A new sandbox with a Jupyter kernel that runs: id, name, connection (without the key), tier, notes."""
        return self._json("POST", "/hyper/v1/kernels", body=spec.as_dict(), timeout_s=_START_S)

    def kernels(self) -> list[dict[str, Any]]:
        """All kernels, newest first."""
        kernels: list[dict[str, Any]] = self._json("GET", "/hyper/v1/kernels")["kernels"]
        return kernels

    def kernel(self, ident: str) -> dict[str, Any]:
        """A kernel: id, name, state, exit_code (-1 while it lives), reason, connection, tier."""
        return self._json("GET", f"/hyper/v1/kernels/{quote_part(ident)}")

    def restart_kernel(self, ident: str, kernel: KernelSpec, machine: SandboxSpec | None = None) -> dict[str, Any]:
        """Start a kernel again in its sandbox; its connection info, without the key.

        :param machine: asks anew for memory, processors and limits; None: as it was.
        """
        body: dict[str, Any] = {"kernel": asdict(kernel)}
        if machine:
            limits = asdict(machine.limits)
            body["machine"] = {"memory_mib": machine.memory_mib, "cpus": machine.cpus, "limits": limits}
        answer = self._json("POST", f"/hyper/v1/kernels/{quote_part(ident)}/start", body=body, timeout_s=_START_S)
        connection: dict[str, Any] = answer["connection"]
        return connection

    def signal_kernel(self, ident: str, signal: int) -> None:
        """Signal a kernel; nothing happens to one that is gone."""
        self._do("POST", f"/hyper/v1/kernels/{quote_part(ident)}/signal", body={"signal": signal})

    def wait_kernel(self, ident: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """As :meth:`kernel`, once it has ended or after ``timeout_s``."""
        path = f"/hyper/v1/kernels/{quote_part(ident)}/wait"
        return self._json("POST", path, {"timeout_s": timeout_s}, timeout_s=timeout_s + TIMEOUT_S, again=True)

    def own_kernel(self, ident: str, owner: Owner) -> dict[str, Any]:
        """Take over a kernel whose owner has ended: as :meth:`kernel`, and its ``key`` and ``signature_scheme``."""
        return self._json("POST", f"/hyper/v1/kernels/{quote_part(ident)}/owner", body=asdict(owner))

    def take_missed(self, ident: str) -> dict[str, Any]:
        """What a kernel said while no client heard it, which is forgotten then.

        :return: ``messages``, each a ``channel`` and base64 ``parts`` as a client would have got them, and ``is_cut``.
        """
        return self._json("POST", f"/hyper/v1/kernels/{quote_part(ident)}/missed")

    def remove_kernel(self, ident: str) -> None:
        """Kill a kernel and forget its sandbox."""
        self._do("DELETE", f"/hyper/v1/kernels/{quote_part(ident)}")

    # -- pool ---------------------------------------------------------------------------------------------------

    def pool(self) -> list[dict[str, Any]]:
        """Clones that are parked, by image and size; see ``daemon.pool.Pool.describe``."""
        pool: list[dict[str, Any]] = self._json("GET", "/hyper/v1/pool")["pool"]
        return pool

    def keep_parked(
        self,
        count: int,
        image: str = DEFAULT_IMAGE,
        *,
        memory_mib: int = 0,
        cpus: int = 0,
        programs: bool = False,
    ) -> list[dict[str, Any]]:
        """Have so many clones kept ready, with the image's kernel or for ``programs``; zero memory or CPUs: as policy
        says. Answers as :meth:`pool` after that."""
        size = {name: value for name, value in (("memory_mib", memory_mib), ("cpus", cpus)) if value}
        body = {"count": count, "image": image, "programs": programs, **size}
        answer = self._json("POST", "/hyper/v1/pool", body=body, timeout_s=_START_S, again=True)
        pool: list[dict[str, Any]] = answer["pool"]
        return pool
