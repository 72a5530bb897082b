"""What is known of one sandbox, kept on disk so that it outlives hyperd and the shim."""

import json
import os
import shutil
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from hyper_kernel.errors import HostError, RequestError
from hyper_kernel.paths import Paths
from hyper_kernel.spec import SandboxSpec

#: Where a shim leaves what its kernel said while nobody heard it, in the sandbox's folder.
MISSED = "missed.jsonl"


class State(StrEnum):
    """Where a sandbox is in its life; only these steps exist: created → booting → running → stopping → exited."""

    #: Recorded; no machine yet.
    CREATED = "created"
    #: The machine is starting; the agent has not said hello.
    BOOTING = "booting"
    #: The agent has answered and the program or kernel was started.
    RUNNING = "running"
    #: Asked to end.
    STOPPING = "stopping"
    #: No machine any more; the record says how it ended.
    EXITED = "exited"


class Liveness(StrEnum):
    """How lively a sandbox is, as the host measured it."""

    #: Its processors work.
    BUSY = "busy"
    #: They do not, but it answers.
    IDLE = "idle"
    #: Its agent does not answer.
    HUNG = "hung"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A sandbox as it was last known. Times are seconds since the epoch, 0.0 where not yet.

    ``death`` names why it ended (see ``death.Death``) and ``reason`` says it for people ("out of memory: used all of
    its 512 MiB"); both are empty while it lives and after a plain exit. ``exit_code`` is the program's (128 + signal
    where a signal ended it), -1 while unknown.
    ``connection`` is the connection info clients use (without the key), once a kernel runs. ``asked`` names the limits
    in ``spec`` that were asked for; the others are what policy gave. ``cpu_s`` is the processor time that the shim and
    all it started took from its start to its end, 0.0 until then. ``liveness`` is there in answers to those who asked
    for it, with ``idle_s``: since when it has done nothing, or not answered, and ``removed``: what the firewall
    has taken out of what its kernel said, and how often.
    """

    id: str
    name: str
    spec: SandboxSpec
    image_id: str
    created_s: float
    state: State = State.CREATED
    started_s: float = 0.0
    finished_s: float = 0.0
    exit_code: int = -1
    reason: str = ""
    death: str = ""
    tier: str = ""
    shim_pid: int = 0
    qemu_pid: int = 0
    connection: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    cpu_s: float = 0.0
    liveness: str = ""
    idle_s: float = 0.0
    removed: dict[str, int] = field(default_factory=dict)

    def save(self, sandboxes: Path) -> None:
        """Write it below ``sandboxes``, whole or not at all.

        :raise HostError: the disk refuses.
        """
        folder = sandboxes / self.id
        partial = folder / f"record.json.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.write_text(json.dumps(self.as_dict()))
            partial.replace(folder / "record.json")
        except OSError as exc:
            partial.unlink(missing_ok=True)
            raise HostError(
                f"cannot save the record of {self.name} in {folder}: {exc}", hint="free some space"
            ) from exc

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in a sandbox's folder.

        :raise HostError: there is none or it cannot be read.
        """
        try:
            return cls.from_dict(json.loads((folder / "record.json").read_text()))
        except (OSError, ValueError, TypeError, KeyError, RequestError) as exc:
            raise HostError(f"cannot read the record in {folder}: {exc}", hint=f"remove {folder}") from exc

    def as_dict(self) -> dict[str, Any]:
        """As plain data that :meth:`from_dict` takes back."""
        # Not asdict(), which copies deeply: that took longer than all the rest of saving.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"spec": self.spec.as_dict(), "connection": dict(self.connection)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A record from plain data.

        :raise ValueError, TypeError, KeyError, RequestError: it is not the data of a record.
        """
        return cls(
            **{
                **data,
                "spec": SandboxSpec.from_dict(data["spec"]),
                "state": State(data["state"]),
                "notes": tuple(data.get("notes", ())),
                "asked": tuple(data.get("asked", ())),
            }
        )

    def remove_sockets(self, paths: Paths) -> None:
        """Remove every socket of its; for one whose shim cannot do that any more."""
        shutil.rmtree(paths.sandbox_run(self.id), ignore_errors=True)
        if self.spec.kernel:
            base = paths.channels(self.spec.kernel.channels or self.id[:8])
            for path in base.parent.glob(f"{base.name}-*"):
                path.unlink(missing_ok=True)

    def changed(self, **changes: Any) -> Self:
        """A copy with these fields changed."""
        return replace(self, **changes)
