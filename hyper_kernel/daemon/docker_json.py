"""Sandboxes and images in the JSON shapes of the Docker Engine API (v1.47); pure."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from hyper_kernel.daemon.create_body import WALL_S
from hyper_kernel.oci.store import Image
from hyper_kernel.policy.rules import amounts_of
from hyper_kernel.sandbox.death import Death
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.sandbox.words import status_text

#: What Docker shows where a time is not known.
NO_TIME = "0001-01-01T00:00:00Z"
_WORDS = {
    State.CREATED: "created",
    State.BOOTING: "running",
    State.RUNNING: "running",
    State.STOPPING: "running",
    State.EXITED: "exited",
}


def status_word(state: State) -> str:
    """Docker's word for a state."""
    return _WORDS[state]


def time_text(seconds: float) -> str:
    """RFC 3339 with nanoseconds, as Docker writes times."""
    if not seconds:
        return NO_TIME
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def public_record(record: Record) -> dict[str, Any]:
    """A record as plain data for clients."""
    data = record.as_dict()
    if kernel := data["spec"].get("kernel"):
        # SECURITY: the key signs messages of the notebook's user; who needs it gave it to us.
        kernel["key"] = ""
    return data


def summary(record: Record) -> dict[str, Any]:
    """An item of GET /containers/json."""
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.spec.image,
        "ImageID": record.image_id,
        "Command": " ".join(record.spec.process.argv) or ("(jupyter kernel)" if record.spec.kernel else ""),
        "Created": int(record.created_s),
        "Ports": [],
        "Labels": record.spec.labels,
        "State": status_word(record.state),
        "Status": status_text(record),
        "HostConfig": {"NetworkMode": "none"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": _mounts(record),
    }


def details(record: Record, image: Image | None, log_path: str) -> dict[str, Any]:
    """GET /containers/{id}/json."""
    argv = record.spec.process.argv
    return {
        "Id": record.id,
        "Created": time_text(record.created_s),
        "Path": argv[0] if argv else "",
        "Args": list(argv[1:]),
        "State": _state(record),
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": log_path,
        "Name": f"/{record.name}",
        "RestartCount": 0,
        "Driver": "hyper",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(record),
        "GraphDriver": {"Name": "erofs", "Data": {}},
        "Mounts": _mounts(record),
        "Config": _config(record, image),
        "NetworkSettings": {"Ports": {}, "Networks": {}, "IPAddress": "", "MacAddress": "", "Gateway": ""},
        "Hyper": {
            "State": str(record.state),
            "Tier": record.tier,
            "Death": record.death,
            "Reason": record.reason,
            "Liveness": record.liveness,
            "IdleSeconds": record.idle_s,
            "Notes": list(record.notes),
            "Kernel": bool(record.spec.kernel),
            # No limit is null.
            "Limits": {name: value or None for name, value in asdict(amounts_of(record.spec)).items()},
            "Asked": list(record.asked),
            "CpuSeconds": record.cpu_s,
        },
    }


def _state(record: Record) -> dict[str, Any]:
    word = status_word(record.state)
    return {
        "Status": word,
        "Running": word == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": record.death == Death.OUT_OF_MEMORY,
        "Dead": False,
        "Pid": record.qemu_pid if word == "running" else 0,
        "ExitCode": max(record.exit_code, 0),
        "Error": record.reason,
        "StartedAt": time_text(record.started_s),
        "FinishedAt": time_text(record.finished_s),
    }


def _host_config(record: Record) -> dict[str, Any]:
    limits = record.spec.limits
    return {
        "Binds": [str(mount) for mount in record.spec.mounts] or None,
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": "none",
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": record.spec.auto_remove,
        "Memory": record.spec.memory_mib << 20,
        "NanoCpus": limits.cpu_percent * 10**7 or record.spec.cpus * 10**9,
        "PidsLimit": limits.processes or None,
        "StorageOpt": {"size": f"{limits.scratch_mib}m"},
        "Annotations": {WALL_S: f"{limits.wall_s:g}"} if limits.wall_s else {},
        "Privileged": False,
        "ReadonlyRootfs": False,
        "Runtime": "hyper",
    }


def _mounts(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "Type": "bind",
            "Source": mount.source,
            "Destination": mount.target,
            "Mode": mount.mode,
            "RW": not mount.read_only,
            "Propagation": "rprivate",
        }
        for mount in record.spec.mounts
    ]


def _config(record: Record, image: Image | None) -> dict[str, Any]:
    process = record.spec.process
    return {
        "Hostname": record.spec.hostname or record.id[:12],
        "Domainname": "",
        "User": process.user or (image.config.user if image else ""),
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": process.tty,
        "OpenStdin": process.open_stdin,
        "StdinOnce": process.open_stdin,
        "Env": [*(image.config.env if image else ()), *process.env],
        "Cmd": list(process.argv),
        "Image": record.spec.image,
        "Volumes": None,
        "WorkingDir": process.cwd or (image.config.cwd if image else ""),
        "Entrypoint": None,
        "Labels": record.spec.labels,
    }


def image_summary(image: Image, containers: int) -> dict[str, Any]:
    """An item of GET /images/json."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.names),
        "RepoDigests": [],
        "Created": int(created_s(image)),
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.config.labels or None,
        "Containers": containers,
    }


def image_details(image: Image) -> dict[str, Any]:
    """GET /images/{name}/json."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.names),
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        "Created": time_text(created_s(image)),
        "Author": "",
        "Architecture": config.architecture,
        "Os": "linux",
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "erofs", "Data": {"Disk": str(image.disk)}},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": NO_TIME},
        "Config": {
            "User": config.user,
            "Env": list(config.env),
            "Cmd": list(config.cmd) or None,
            "Entrypoint": list(config.entrypoint) or None,
            "WorkingDir": config.cwd,
            "Labels": config.labels or None,
        },
    }


def created_s(image: Image) -> float:
    """When an image was made, in seconds since the epoch; 0.0 where it does not say."""
    try:
        return datetime.fromisoformat(image.created.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def stats(record: Record, now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """GET /containers/{id}/stats, from two answers of the shim's ``stats`` with ``read_s`` added."""
    return {
        "id": record.id,
        "name": f"/{record.name}",
        "read": time_text(now.get("read_s", 0.0)),
        "preread": time_text(before.get("read_s", 0.0)),
        "num_procs": 0,
        "pids_stats": {
            "current": now.get("guest", {}).get("processes", 0),
            "limit": record.spec.limits.processes,
        },
        "cpu_stats": _cpu(record, now),
        "precpu_stats": _cpu(record, before) if before else {"cpu_usage": {"total_usage": 0}, "system_cpu_usage": 0},
        "memory_stats": _memory(record, now),
        "blkio_stats": {"io_service_bytes_recursive": []},
        "networks": {},
        "storage_stats": {},
    }


def _cpu(record: Record, read: dict[str, Any]) -> dict[str, Any]:
    used_ns = int(read.get("host", {}).get("cpu_s", 0) * 1e9)
    return {
        "cpu_usage": {"total_usage": used_ns, "usage_in_kernelmode": 0, "usage_in_usermode": used_ns},
        # Docker's percentage is used / system x online: the sandbox's own CPUs are its system.
        "system_cpu_usage": int(read.get("read_s", 0.0) * 1e9) * record.spec.cpus,
        "online_cpus": record.spec.cpus,
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def _memory(record: Record, read: dict[str, Any]) -> dict[str, Any]:
    return {"usage": read.get("host", {}).get("pss_bytes", 0), "limit": record.spec.memory_mib << 20, "stats": {}}
