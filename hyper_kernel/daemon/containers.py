"""Routes of Docker's /containers: a container is a sandbox. What streams is in ``attach`` and ``archive``."""

import asyncio
import time
from typing import Any

from hyper_kernel.daemon import docker_json
from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.create_body import plan_sandbox
from hyper_kernel.daemon.errors import NotHereError
from hyper_kernel.daemon.filters import CONTAINER_FILTERS, has_labels, is_wanted, parse_filters
from hyper_kernel.daemon.logs import parse_time
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.daemon.signals import parse_signal
from hyper_kernel.errors import NotFoundError, RequestError
from hyper_kernel.host.usage import read_usage
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.sandbox.record import State

#: How long a stop waits before it kills, in seconds, where the client does not say.
STOP_TIMEOUT_S = 10.0
#: How often a stream of stats has a line, in seconds.
_STATS_EVERY_S = 1.0
_PRUNE_FILTERS = frozenset({"label", "until"})


class Containers:
    """Answers for containers."""

    def __init__(self, sandboxes: Sandboxes, images: ImageStore) -> None:
        self._sandboxes = sandboxes
        self._images = images

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        one = "/containers/{id}"
        routes.add("GET", "/containers/json", self.list)
        routes.add("POST", "/containers/create", self.create)
        routes.add("POST", "/containers/prune", self.prune)
        routes.add("GET", f"{one}/json", self.inspect)
        routes.add("GET", f"{one}/stats", self.stats)
        routes.add("DELETE", one, self.remove)
        actions = ("start", "stop", "restart", "kill", "wait", "resize", "rename")
        for action in actions:
            routes.add("POST", f"{one}/{action}", getattr(self, action))

    def _box(self, call: Call) -> Box:
        return self._sandboxes.get(call.params["id"])

    async def list(self, call: Call) -> Answer:
        """GET /containers/json."""
        filters = parse_filters(call.query.get("filters", ""), CONTAINER_FILTERS)
        limit = max(0, int(call.number("limit", 0)))  # docker-py sends -1 for none
        everything = call.flag("all") or limit > 0 or "status" in filters or "exited" in filters
        boxes = [box for box in self._sandboxes.list() if (everything or box.is_live) and is_wanted(box, filters)]
        return Answer(body=[docker_json.summary(box.record) for box in boxes[: limit or None]])

    async def create(self, call: Call) -> Answer:
        """POST /containers/create."""
        body = await call.json()
        ref = body.get("Image")
        if not isinstance(ref, str) or not ref:
            raise RequestError("no image specified", hint="name one of: docker images")
        image = self._images.find(ref)
        if image is None:
            raise NotFoundError(f"No such image: {ref}", hint="list images with: hyper images")
        spec = plan_sandbox(body, image.config)
        box = await self._sandboxes.create(spec, call.query.get("name", ""))
        return Answer(status=201, body={"Id": box.record.id, "Warnings": []})

    async def inspect(self, call: Call) -> Answer:
        """GET /containers/{id}/json."""
        box = self._box(call)
        image = self._images.find(box.record.image_id)
        return Answer(body=docker_json.details(await box.look(), image, str(box.folder / "output.jsonl")))

    async def start(self, call: Call) -> Answer:
        """POST /containers/{id}/start."""
        await self._sandboxes.start(self._box(call))
        return Answer(status=204)

    async def stop(self, call: Call) -> Answer:
        """POST /containers/{id}/stop."""
        await self._sandboxes.stop(self._box(call), _stop_timeout(call))
        return Answer(status=204)

    async def restart(self, call: Call) -> Answer:
        """POST /containers/{id}/restart."""
        await self._sandboxes.restart(self._box(call), _stop_timeout(call))
        return Answer(status=204)

    async def kill(self, call: Call) -> Answer:
        """POST /containers/{id}/kill."""
        await self._sandboxes.kill(self._box(call), parse_signal(call.query.get("signal") or "KILL"))
        return Answer(status=204)

    async def rename(self, call: Call) -> Answer:
        """POST /containers/{id}/rename."""
        self._sandboxes.rename(self._box(call), call.query.get("name", ""))
        return Answer(status=204)

    async def resize(self, call: Call) -> Answer:
        """POST /containers/{id}/resize."""
        box = self._box(call)
        await box.wait_for(lambda: box.record.state is not State.BOOTING)
        await box.request("resize", **terminal_size(call))
        return Answer(status=200)

    async def wait(self, call: Call) -> None:
        """POST /containers/{id}/wait: the head goes out at once, since `docker run` waits before it starts."""
        box, condition = self._box(call), call.query.get("condition") or "not-running"
        seen = box.exits
        conditions = {
            "not-running": lambda: not box.is_live,
            "next-exit": lambda: box.exits > seen,
            "removed": lambda: box.removed,
        }
        if condition not in conditions:
            raise RequestError(f"invalid condition: {condition!r}", hint=f"use one of {', '.join(conditions)}")
        await call.begin(headers={"Content-Type": "application/json"})
        await box.wait_for(lambda: conditions[condition]() or box.removed)
        # Docker's own "Error" would make `docker run` exit with 125 instead of the code.
        await call.write_json({"StatusCode": max(box.record.exit_code, 0), "Hyper": {"Reason": box.record.reason}})
        call.finish()

    async def remove(self, call: Call) -> Answer:
        """DELETE /containers/{id}."""
        if call.flag("link"):
            raise NotHereError("links are not supported by Hyper Kernel", hint="leave out --link")
        await self._sandboxes.remove(self._box(call), force=call.flag("force"))
        return Answer(status=204)

    async def prune(self, call: Call) -> Answer:
        """POST /containers/prune."""
        filters = parse_filters(call.query.get("filters", ""), _PRUNE_FILTERS)
        before_s = min((parse_time(text, time.time()) for text in filters.get("until", [])), default=time.time())
        labels = filters.get("label", [])
        gone = []
        for box in self._sandboxes.list():
            record = box.record
            if not box.is_live and record.created_s <= before_s and has_labels(record.spec.labels, labels):
                await self._sandboxes.remove(box)
                gone.append(record.id)
        return Answer(body={"ContainersDeleted": gone, "SpaceReclaimed": 0})

    async def stats(self, call: Call) -> Answer | None:
        """GET /containers/{id}/stats: one answer, or a line each second."""
        box = self._box(call)
        stream = call.flag("stream") if "stream" in call.query else True
        now = await _read_stats(box)
        if not stream:
            before: dict[str, Any] = {}
            if not call.flag("one-shot") and now:
                await asyncio.sleep(_STATS_EVERY_S)  # a percentage needs two readings, a second apart
                before, now = now, await _read_stats(box)
            return Answer(body=docker_json.stats(box.record, now, before))
        await call.begin(headers={"Content-Type": "application/json"})
        before = {}
        while not box.removed:
            await call.write_json(docker_json.stats(box.record, now, before))
            await asyncio.sleep(_STATS_EVERY_S)  # it is a clock that this stream follows, not an event
            before, now = now, await _read_stats(box)
        call.finish()
        return None


def terminal_size(call: Call) -> dict[str, int]:
    """``rows`` and ``cols`` from Docker's h and w.

    :raise RequestError: they are no size of a terminal.
    """
    rows, cols = int(call.number("h", 0)), int(call.number("w", 0))
    if not (0 <= rows <= 10_000 and 0 <= cols <= 10_000):
        raise RequestError(f"{rows} x {cols} is not the size of a terminal")
    return {"rows": rows, "cols": cols}


def _stop_timeout(call: Call) -> float:
    timeout_s = call.number("t", STOP_TIMEOUT_S)
    return timeout_s if timeout_s >= 0 else 7 * 86400.0  # Docker: -1 waits without end


async def _read_stats(box: Box) -> dict[str, Any]:
    """What a live sandbox uses now; ``{}`` for one that has no machine."""
    if box.record.state is not State.RUNNING or box.shim is None:
        return {}
    answer = await box.request("stats")
    return answer | {"host": read_usage(box.record.shim_pid, box.record.qemu_pid), "read_s": time.time()}
