"""What is wanted of a sandbox, as frozen values; what runs is ``sandbox.Sandbox``."""

import os
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from hyper_kernel.errors import RequestError
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB, check_machine

#: The image a sandbox starts from when nothing else is said.
DEFAULT_IMAGE = "hyper/python:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A program to run in a sandbox.

    ``env`` entries are ``NAME=value``; an empty ``argv``, ``user`` or ``cwd`` means what the image says.
    """

    argv: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    open_stdin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sandbox may use at most. Zero: in a request, what hyperd's policy gives to those who do not ask; in the
    record of a sandbox, where policy has been applied, no limit.

    ``cpu_percent`` is of one processor (150: one and a half); ``scratch_mib`` is what it may write in its image's
    place; ``wall_s`` counts from its start. A cell is one execute request: ``cell_s`` is how long it may run,
    ``output_bytes`` how much it may show. ``output_bytes_per_s`` slows down what comes faster.
    """

    cpu_percent: int = 0
    scratch_mib: int = 0
    processes: int = 0
    wall_s: float = 0.0
    cell_s: float = 0.0
    output_bytes: int = 0
    output_bytes_per_s: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf"):
                raise RequestError(f"{item.name}={value!r} is not a positive number")


#: How a guest may see a folder of the host: live are the last two, if policy allows that.
FILES = ("copy", "none", "ro", "rw")
LIVE = FILES[2:]
#: Folders of the host that one sandbox may have.
_MAX_MOUNTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of the host, ``source``, that the guest sees live at ``target``, if policy allows that."""

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        for what, path in (("folder of this machine", self.source), ("place in the sandbox", self.target)):
            if not path.startswith("/") or {"..", "\0"} & {*path.split("/"), *path} or not path.strip("/"):
                raise RequestError(f"the {what} {path!r} is no whole path of a folder", hint="write /one/like/this")

    def __str__(self) -> str:
        return f"{self.source}:{self.target}:{self.mode}"

    @property
    def mode(self) -> str:
        """How the guest sees it, of ``FILES``."""
        return "ro" if self.read_only else "rw"


def parse_mount(text: str) -> Mount:
    """A folder in Docker's words, ``HOST:GUEST[:ro|:rw]``.

    :raise RequestError: it is none.
    """
    source, target, *options = text.split(":") if text.count(":") in (1, 2) else ("", "")
    # What Docker has beside these is about other kinds of mounts, or about labels that a guest has not.
    known = {"ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", "rprivate", "private", ""}
    words = {*",".join(options).split(",")}
    if not source or words - known or {"ro", "rw"} <= words:
        raise RequestError(f"{text!r} is no folder to share", hint="write HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:rw")
    return Mount(source=source, target=target, read_only="ro" in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A Jupyter kernel to run in a sandbox.

    ``name`` is a kernelspec of the image (empty: its first); ``arguments`` are added to its command line. ``folder`` is
    the host's folder of the notebook and ``files`` says how the guest sees it: ``copy`` (read in at start), ``none``,
    or live, if policy allows: ``ro`` (it can read) or ``rw`` (what it writes is in the host's folder at once).
    ``key`` signs the messages, in the way of ``signature_scheme``; the guest gets another. ``output`` is what becomes
    of what it shows: ``sanitize`` (nothing active reaches a browser) or ``trusted`` (all passes), if policy allows.

    Clients reach its channels over Unix sockets named after ``channels`` (hexadecimal digits; empty: after the
    sandbox), or over TCP at ``ports`` (empty: free ones). A new sandbox that takes over a kernel gets the old one's.
    """

    name: str = ""
    arguments: tuple[str, ...] = ()
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    env: tuple[str, ...] = ()
    folder: str = ""
    files: str = "copy"
    output: str = "sanitize"
    transport: str = "ipc"
    channels: str = ""
    ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.files not in FILES:
            raise RequestError(f"files={self.files!r} is not known", hint=f"use {' or '.join(FILES)}")
        if self.output not in ("sanitize", "trusted"):
            raise RequestError(f"output={self.output!r} is not known", hint="use sanitize or trusted")
        if self.transport not in ("ipc", "tcp"):
            raise RequestError(f"transport={self.transport!r} is not known", hint="use ipc or tcp")
        # SECURITY: it becomes part of a path.
        if not re.fullmatch(r"[0-9a-f]{0,16}", self.channels):
            raise RequestError(f"channels={self.channels!r} is not up to 16 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process a sandbox belongs to: when it is gone for ``grace_s``, the sandbox is stopped.

    ``start_ticks`` (field 22 of /proc/PID/stat) tells it from a later process with the same pid.
    """

    pid: int
    start_ticks: int
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One sandbox: a machine, the image it starts from, and a program or a kernel to run in it.

    ``memory_mib`` and ``cpus`` of zero ask for what hyperd's policy gives. ``isolation`` is the weakest tier that its
    machine may have, ``software`` or ``hardware``. ``mounts`` are folders of the host that it sees live.
    """

    image: str = DEFAULT_IMAGE
    memory_mib: int = 0
    cpus: int = 0
    isolation: str = "software"
    hostname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    auto_remove: bool = False
    process: ProcessSpec = ProcessSpec()
    limits: Limits = Limits()
    mounts: tuple[Mount, ...] = ()
    kernel: KernelSpec | None = None
    owner: Owner | None = None

    def __post_init__(self) -> None:
        check_machine(self.memory_mib or DEFAULT_MEMORY_MIB, self.cpus or DEFAULT_CPUS)
        if self.isolation not in ("software", "hardware"):
            raise RequestError(f"isolation={self.isolation!r} is not known", hint="use software or hardware")
        if len(self.mounts) > _MAX_MOUNTS:
            raise RequestError(f"{len(self.mounts)} shared folders are over the limit of {_MAX_MOUNTS}")
        places = [os.path.normpath(mount.target) for mount in self.mounts]
        places += ["/work"] * (self.kernel is not None and self.kernel.files in LIVE)
        if double := {place for place in places if places.count(place) > 1}:
            raise RequestError(f"two shared folders are to be at {min(double)}", hint="give each a place of its own")

    def as_dict(self) -> dict[str, Any]:
        """As plain data that :meth:`from_dict` takes back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A spec from plain data.

        :raise RequestError: an unknown key or a value outside its limits.
        """
        data = dict(data)
        if (process := data.pop("process", None)) is not None:
            data["process"] = _build(ProcessSpec, process)
        if (limits := data.pop("limits", None)) is not None:
            data["limits"] = _build(Limits, limits)
        data["mounts"] = tuple(_build(Mount, mount) for mount in data.pop("mounts", ()))
        if (kernel := data.pop("kernel", None)) is not None:
            data["kernel"] = _build(KernelSpec, kernel)
        if (owner := data.pop("owner", None)) is not None:
            data["owner"] = _build(Owner, owner)
        spec: Self = _build(cls, data)
        return spec


def _build(cls: Any, data: dict[str, Any]) -> Any:
    names = {item.name for item in fields(cls)}
    if unknown := sorted(set(data) - names):
        raise RequestError(f"{cls.__name__} has no {', '.join(unknown)}", hint=f"it knows {', '.join(sorted(names))}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
