"""What hyperd says, in the shapes of rest-api.yml; pure."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hyper_kernel import __version__
from hyper_kernel.client import Record
from hyper_kernel.spec import SandboxSpec
from jupyter_ext.hyperd import Found

_CHANGE = (
    "path",
    "shown",
    "kind",
    "is_folder",
    "size",
    "digest",
    "is_text",
    "conflict",
    "hidden",
    "can_apply",
    "reason",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a sandbox used when it was measured last; ``cpu_s`` is what it had of the processors since its start."""

    measured_s: float
    memory_bytes: int
    cpu_s: float
    cpu_percent: float | None = None

    def after(self, before: "Usage | None") -> "Usage":
        """This measurement, with the share of a processor since ``before``."""
        if before is None or self.measured_s <= before.measured_s or self.cpu_s < before.cpu_s:
            return self
        share = (self.cpu_s - before.cpu_s) / (self.measured_s - before.measured_s)
        return Usage(
            measured_s=self.measured_s,
            memory_bytes=self.memory_bytes,
            cpu_s=self.cpu_s,
            cpu_percent=round(100 * share, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel as this server has it; ``path`` and ``session`` are empty where no session uses it."""

    id: str
    name: str
    state: str
    path: str = ""
    session: str = ""


def status(found: Found, said: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """``Status``.

    :param said: hyperd's own status; empty where it does not run.
    :param policy: hyperd's policy; empty likewise.
    """
    return {
        "version": __version__,
        "hyperd": str(found.presence),
        "hyperd_version": found.version,
        "tier": said.get("tier", "unknown"),
        "tier_reason": said.get("tier_reason", ""),
        "sandboxes": said.get("sandboxes", 0),
        "alive": said.get("alive", 0),
        "parked": said.get("parked", 0),
        "policy_problem": policy.get("problem", ""),
    }


def sandbox(record: Record, *, kernel: Kernel | None = None, usage: Usage | None = None) -> dict[str, Any]:
    """``Sandbox``."""
    spec = record.spec
    return {
        "id": record.id,
        "name": record.name,
        "image": spec.image,
        "state": str(record.state),
        "death": record.death,
        "reason": record.reason,
        "exit_code": record.exit_code,
        "tier": record.tier,
        "activity": record.liveness,
        "created_s": record.created_s,
        "started_s": record.started_s,
        "finished_s": record.finished_s,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
        "limits": asdict(spec.limits),
        "usage": {
            "cpu_percent": usage.cpu_percent if usage else None,
            "memory_bytes": usage.memory_bytes if usage else None,
            "measured_s": usage.measured_s if usage else 0.0,
        },
        "removed": dict(record.removed),
        "kernel": asdict(kernel) if kernel else None,
        "folder": spec.kernel.folder if spec.kernel else "",
        "files": spec.kernel.files if spec.kernel else "none",
        "notes": list(record.notes),
    }


def image(said: dict[str, Any]) -> dict[str, Any]:
    """``Image``, of an item of Docker's list."""
    return {
        "id": said["Id"],
        "names": list(said["RepoTags"]),
        "created_s": float(said["Created"]),
        "size": said["Size"],
    }


def template(said: dict[str, Any]) -> dict[str, Any]:
    """``Template``, of an item of hyperd's pool."""
    names = ("image", "memory_mib", "cpus", "parked", "target", "kept", "problem")
    return {name: said[name] for name in names} | {"programs": said["kernel"] is None}


def change(said: dict[str, Any]) -> dict[str, Any]:
    """``Change``."""
    return {name: said[name] for name in _CHANGE}


def comparison(said: dict[str, Any]) -> dict[str, Any]:
    """``Comparison``."""
    return {name: said[name] for name in ("path", "is_text", "before", "after")}


def applied(said: dict[str, Any]) -> dict[str, Any]:
    """``Applied``."""
    refused = [{name: each[name] for name in ("path", "reason", "conflict", "hidden")} for each in said["refused"]]
    return {"applied": list(said["applied"]), "refused": refused}


def granted(path: str, spec: SandboxSpec) -> dict[str, Any]:
    """``Granted``: what a kernel that is started for a path gets, of the spec that policy let pass."""
    assert spec.kernel is not None  # it was asked for with one
    return {
        "path": path,
        "image": spec.image,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
        "limits": asdict(spec.limits),
        "files": spec.kernel.files,
        "output": spec.kernel.output,
    }


def terminal(name: str, sandbox_id: str, last_activity: datetime) -> dict[str, Any]:
    """``Terminal``."""
    return {"name": name, "last_activity": last_activity.isoformat().replace("+00:00", "Z"), "sandbox": sandbox_id}
