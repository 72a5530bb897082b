"""Routes about hyperd itself: ping, version, info, events, and its end."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyper_kernel import __version__
from hyper_kernel.daemon import docker_json
from hyper_kernel.daemon.errors import NotHereError
from hyper_kernel.daemon.events import Events
from hyper_kernel.daemon.filters import Filters, has_labels, parse_filters
from hyper_kernel.daemon.logs import parse_time
from hyper_kernel.daemon.pool import Pool
from hyper_kernel.daemon.routing import API_VERSION, MIN_API_VERSION, Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths

_FILTERS = frozenset({"type", "event", "container", "image", "label", "scope"})
#: What Docker has and Hyper Kernel has not, by the first word of the path.
_ABSENT = (
    "networks volumes swarm nodes services tasks secrets configs plugins build commit session distribution grpc "
    "auth checkpoints"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFacts:
    """How strong the isolation is on this host: ``hardware``, ``software``, or ``unknown`` before the first start."""

    tier: str
    reason: str


def read_tier(paths: Paths) -> TierFacts:
    """The verdict that the probe (``qemu.accel``) has left on disk."""
    try:
        data = json.loads(paths.tier.read_text())
        return TierFacts(tier=str(data["tier"]), reason=str(data["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return TierFacts(tier="unknown", reason="found out when the first sandbox starts")


class System:
    """Answers about hyperd.

    :param pool: what is parked.
    :param stop: ends hyperd, once the answer is out.
    """

    def __init__(
        self,
        paths: Paths,
        pool: Pool,
        sandboxes: Sandboxes,
        images: ImageStore,
        events: Events,
        stop: Callable[[], None],
    ) -> None:
        self._paths = paths
        self._pool = pool
        self._sandboxes = sandboxes
        self._images = images
        self._events = events
        self._stop = stop
        self._started_s = time.time()

    def add_to(self, routes: Routes) -> None:
        """Add the routes; those of absent parts last."""
        routes.add("GET", "/_ping", self.ping)
        routes.add("GET", "/version", self.version)
        routes.add("GET", "/info", self.info)
        routes.add("GET", "/events", self.events)
        routes.add("GET", "/system/df", self.df)
        routes.add("GET", "/hyper/v1/status", self.status)
        routes.add("POST", "/hyper/v1/shutdown", self.shutdown)
        for word in _ABSENT.split():
            for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
                routes.add(method, f"/{word}", self.absent)
                routes.add(method, f"/{word}/{{rest:path}}", self.absent)

    async def ping(self, call: Call) -> Answer:
        """GET and HEAD /_ping."""
        headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
        return Answer(body=b"OK", headers={**headers, "Content-Type": "text/plain; charset=utf-8"})

    async def version(self, call: Call) -> Answer:
        """GET /version."""
        uname = platform.uname()
        common = {
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
            "Arch": _arch(),
            "KernelVersion": uname.release,
            "GitCommit": "",
            "GoVersion": f"none (Python {platform.python_version()})",
            "BuildTime": "",
        }
        details = {name: value for name, value in common.items() if name != "Version"}
        component = {"Name": "Engine", "Version": __version__, "Details": details | {"Experimental": "false"}}
        return Answer(body=common | {"Platform": {"Name": "Hyper Kernel"}, "Components": [component]})

    async def info(self, call: Call) -> Answer:
        """GET /info."""
        facts = read_tier(self._paths)
        boxes = self._sandboxes.list()
        return Answer(
            body={
                **_host_info(),
                "ID": self._paths.run.name,
                "Name": platform.node(),
                "Containers": len(boxes),
                "ContainersRunning": self._sandboxes.alive,
                "ContainersPaused": 0,
                "ContainersStopped": len(boxes) - self._sandboxes.alive,
                "Images": len(self._images.images()),
                "Driver": "erofs",
                "DriverStatus": [
                    ["Isolation tier", facts.tier],
                    ["Why", facts.reason],
                    ["Parked clones", str(self._pool.parked)],
                    ["Policy", self._sandboxes.rules.summary()],
                ],
                "SecurityOptions": [f"name=hyper,tier={facts.tier}"],
                "Labels": [f"hyper.tier={facts.tier}"],
                "DockerRootDir": str(self._paths.data),
                "ServerVersion": __version__,
                "SystemTime": docker_json.time_text(time.time()),
                "Warnings": _warnings(facts),
            }
        )

    async def status(self, call: Call) -> Answer:
        """GET /hyper/v1/status: this process, for `hyper daemon status`."""
        facts = read_tier(self._paths)
        return Answer(
            body={
                "version": __version__,
                "pid": os.getpid(),
                "python": sys.executable,
                "started_s": self._started_s,
                "socket": str(self._paths.socket),
                "sandboxes": len(self._sandboxes.list()),
                "alive": self._sandboxes.alive,
                "parked": self._pool.parked,
                "tier": facts.tier,
                "tier_reason": facts.reason,
            }
        )

    async def shutdown(self, call: Call) -> None:
        """POST /hyper/v1/shutdown: end hyperd; sandboxes live on and are adopted by the next one."""
        await call.send(Answer(status=200, body={}))
        call.finish()
        self._stop()

    async def df(self, call: Call) -> Answer:
        """GET /system/df."""
        used = [box.record.image_id for box in self._sandboxes.list()]
        images = self._images.images()
        return Answer(
            body={
                "LayersSize": sum(image.size for image in images),
                "Images": [docker_json.image_summary(image, used.count(image.id)) for image in images],
                "Containers": [docker_json.summary(box.record) for box in self._sandboxes.list()],
                "Volumes": [],
                "BuildCache": [],
            }
        )

    async def events(self, call: Call) -> None:
        """GET /events: a line of JSON each."""
        filters = parse_filters(call.query.get("filters", ""), _FILTERS)
        since, until = call.query.get("since", ""), call.query.get("until", "")
        await call.begin(headers={"Content-Type": "application/json"})
        listening = self._events.listen(
            since_s=parse_time(since, 0.0) if since else None, until_s=parse_time(until, 0.0) if until else None
        )
        async for event in listening:
            if is_event_wanted(event, filters):
                await call.write_json(event)
        call.finish()

    async def absent(self, call: Call) -> Answer:
        """Every path of a part that Hyper Kernel does not have."""
        word = call.path.strip("/").split("/")[1 if call.path.startswith("/v1.") else 0]
        raise NotHereError(f"Hyper Kernel has no {word}", hint="hyper_kernel/daemon/README.md lists what it has")


def is_event_wanted(event: dict[str, Any], filters: Filters) -> bool:
    """Whether an event passes Docker's filters."""
    actor = event["Actor"]
    attributes = actor["Attributes"]
    tests: dict[str, Callable[[str], bool]] = {
        "type": lambda value: value == event["Type"],
        "event": lambda value: value == event["Action"].partition(":")[0],
        "container": lambda value: actor["ID"].startswith(value) or attributes.get("name") == value,
        "image": lambda value: attributes.get("image") in (value, f"{value}:latest"),
        "scope": lambda value: value == event["scope"],
    }
    return all(any(map(tests[name], values)) for name, values in filters.items() if name != "label") and has_labels(
        attributes, filters.get("label", [])
    )


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _host_info() -> dict[str, Any]:
    return {
        "OperatingSystem": "Hyper Kernel",
        "OSType": "linux",
        "OSVersion": "",
        "Architecture": platform.machine(),
        "KernelVersion": platform.release(),
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "CgroupDriver": "none",
        "CgroupVersion": "2",
        "LoggingDriver": "json-file",
        "Plugins": {"Volume": [], "Network": ["none"], "Authorization": None, "Log": ["json-file"]},
        "Runtimes": {"hyper": {"path": "hyper"}},
        "DefaultRuntime": "hyper",
        "InitBinary": "hyper",
        "Swarm": {"LocalNodeState": "inactive"},
        "IndexServerAddress": "",
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "Debug": False,
        "ExperimentalBuild": False,
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": True,
        "OomKillDisable": False,
        "NGoroutines": 0,
        "NFd": len(os.listdir("/proc/self/fd")),
    }


def _warnings(facts: TierFacts) -> list[str] | None:
    if facts.tier == "software":
        return [f"WARNING: isolation tier is software (QEMU's emulation): {facts.reason}"]
    return None
