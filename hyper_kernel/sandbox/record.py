"""What is known of one sandbox, kept on disk so that it outlives hyperd and the shim."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from hyper_kernel.errors import HostError
from hyper_kernel.spec import SandboxSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A sandbox as it was last known. Times are seconds since the epoch, 0.0 where not yet.

    ``reason`` names how it ended, for people ("out of memory", "killed", "the shim was killed"); empty while it lives
    and after a plain exit. ``exit_code`` is the program's (128 + signal where a signal ended it), -1 while unknown.
    ``connection`` is the connection info clients use (without the key), once a kernel runs.
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
    tier: str = ""
    shim_pid: int = 0
    qemu_pid: int = 0
    connection: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, sandboxes: Path) -> None:
        """Write it below ``sandboxes``, whole or not at all.

        :raise HostError: the disk refuses.
        """
        folder = sandboxes / self.id
        partial = folder / f"record.json.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.write_text(json.dumps({**asdict(self), "spec": self.spec.as_dict()}))
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
            data = json.loads((folder / "record.json").read_text())
            data["spec"] = SandboxSpec.from_dict(data["spec"])
            data["state"] = State(data["state"])
            data["notes"] = tuple(data["notes"])
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise HostError(f"cannot read the record in {folder}: {exc}", hint=f"remove {folder}") from exc

    def changed(self, **changes: Any) -> Self:
        """A copy with these fields changed."""
        return replace(self, **changes)
