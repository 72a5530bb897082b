"""Routes of ``/hyper/v1``: sandboxes as records, and Jupyter kernels, for which Docker has no word."""

import asyncio
import json
from dataclasses import asdict, replace
from typing import Any

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.docker_json import public_record
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.errors import ConflictError, GuestError, HostError, NotFoundError, RequestError
from hyper_kernel.host.process import is_alive
from hyper_kernel.policy.rules import asked_of
from hyper_kernel.sandbox.record import MISSED, Record, State
from hyper_kernel.spec import Owner, SandboxSpec

#: Longest that one long poll waits, in seconds.
_MAX_POLL_S = 3600.0


class Kernels:
    """Answers for kernels."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("GET", "/hyper/v1/sandboxes", self.list_sandboxes)
        routes.add("POST", "/hyper/v1/sandboxes", self.create_sandbox)
        routes.add("GET", "/hyper/v1/sandboxes/{id}", self.get_sandbox)
        routes.add("GET", "/hyper/v1/kernels", self.list)
        routes.add("POST", "/hyper/v1/kernels", self.create)
        one = "/hyper/v1/kernels/{id}"
        routes.add("GET", one, self.get)
        routes.add("DELETE", one, self.remove)
        routes.add("POST", f"{one}/start", self.start)
        routes.add("POST", f"{one}/signal", self.signal)
        routes.add("POST", f"{one}/wait", self.wait)
        routes.add("POST", f"{one}/owner", self.own)
        routes.add("POST", f"{one}/missed", self.take_missed)

    async def list_sandboxes(self, call: Call) -> Answer:
        """GET /hyper/v1/sandboxes: records, newest first; with ``liveness=1`` also how lively each is."""
        boxes = [box for box in self._sandboxes.list() if call.flag("all") or box.is_live]
        records = [box.record for box in boxes]
        if call.flag("liveness"):
            records = await asyncio.gather(*(box.look() for box in boxes))
        return Answer(body={"sandboxes": [public_record(record) for record in records]})

    async def create_sandbox(self, call: Call) -> Answer:
        """POST /hyper/v1/sandboxes {name, spec}."""
        body = await call.json()
        box = await self._sandboxes.create(_spec(body.get("spec")), str(body.get("name") or ""))
        return Answer(status=201, body=public_record(box.record))

    async def get_sandbox(self, call: Call) -> Answer:
        """GET /hyper/v1/sandboxes/{id}."""
        return Answer(body=public_record(self._sandboxes.get(call.params["id"]).record))

    async def list(self, call: Call) -> Answer:
        """GET /hyper/v1/kernels."""
        return Answer(body={"kernels": [facts(box.record) for box in self._sandboxes.list() if box.record.spec.kernel]})

    async def create(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels: a new sandbox with a kernel that runs; on failure, or when the client goes away,
        nothing is left of it."""
        spec = _spec(await call.json())
        if spec.kernel is None:
            raise RequestError("the spec has no kernel", hint="add kernel: {name, key, ...}")
        box = await self._sandboxes.create(spec)
        try:
            await self._sandboxes.start(box)
        except BaseException as exc:
            if isinstance(exc, GuestError):
                exc.hint = "see what this machine lacks with: hyper doctor"  # the console's file goes with the sandbox
            await asyncio.shield(asyncio.ensure_future(self._sandboxes.remove(box, force=True)))
            raise
        return Answer(status=201, body=facts(box.record))

    async def get(self, call: Call) -> Answer:
        """GET /hyper/v1/kernels/{id}."""
        return Answer(body=facts(self._box(call).record))

    async def start(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels/{id}/start {kernel, machine}: the kernel again, in a fresh machine of its sandbox.

        ``machine`` {memory_mib, cpus, limits} asks anew for what it may have; left out: as it was.
        """
        box, body = self._box(call), await call.json()
        spec, asked = box.record.spec, box.record.asked
        if body.get("kernel"):
            spec = replace(spec, kernel=_spec({"kernel": body["kernel"]}).kernel)
        if "machine" in body:
            wanted = _spec(body["machine"])
            spec = replace(spec, memory_mib=wanted.memory_mib, cpus=wanted.cpus, limits=wanted.limits)
            asked = (*asked_of(wanted), *(name for name in asked if name == "isolation"))
        await self._sandboxes.renew(box, spec, asked)
        return Answer(body=facts(box.record))

    async def signal(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels/{id}/signal {signal}; nothing happens to one that is gone."""
        box, body = self._box(call), await call.json()
        number = body.get("signal")
        if not isinstance(number, int) or not 0 < number < 65:
            raise RequestError(f"signal={number!r} is not the number of a signal")
        if box.shim and not has_ended(box.record):
            await box.request("kernel.signal", signal=number)
        return Answer(status=204)

    async def wait(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels/{id}/wait?timeout_s=: answers when the kernel has ended, or after that time."""
        box = self._box(call)
        timeout_s = min(max(call.number("timeout_s", 30.0), 0.0), _MAX_POLL_S)
        try:
            async with asyncio.timeout(timeout_s):
                await box.wait_for(lambda: has_ended(box.record) or box.removed)
        except TimeoutError:
            pass
        return Answer(body=facts(box.record))

    async def own(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels/{id}/owner {pid, start_ticks, grace_s}: take over a kernel whose owner has ended.

        The answer has the clients' ``key`` beside the kernel's facts: who asks is the user whose kernel it is.
        """
        box, owner = self._box(call), _owner(await call.json())
        async with box.lock:
            spec = box.record.spec
            assert spec.kernel is not None  # _box sees to it
            present = spec.owner
            if present and is_alive(present.pid, present.start_ticks) and present.pid != owner.pid:
                raise ConflictError(
                    f"kernel {box.record.name} belongs to process {present.pid}, which lives",
                    hint="end that one first, or leave it the kernel",
                )
            if box.is_live:
                await box.request("own", owner=asdict(owner))
            box.record = box.record.changed(spec=replace(spec, owner=owner))
        signing = {"key": spec.kernel.key, "signature_scheme": spec.kernel.signature_scheme}
        return Answer(body=facts(box.record) | signing)

    async def take_missed(self, call: Call) -> Answer:
        """POST /hyper/v1/kernels/{id}/missed: what it said while no client heard it; it is forgotten then."""
        box = self._box(call)
        if not box.is_live:
            return Answer(body={"messages": [], "is_cut": False})
        done, path = await box.request("kernel.missed"), box.folder / MISSED
        try:
            messages = [json.loads(line) for line in path.read_bytes().splitlines()]
        except OSError as exc:
            raise HostError(f"cannot read what {box.record.name} said: {exc}", hint="look at the disk") from exc
        finally:
            path.unlink(missing_ok=True)
        return Answer(body={"messages": messages, "is_cut": bool(done.get("is_cut"))})

    async def remove(self, call: Call) -> Answer:
        """DELETE /hyper/v1/kernels/{id}: kill it and forget its sandbox."""
        await self._sandboxes.remove(self._box(call), force=True)
        return Answer(status=204)

    def _box(self, call: Call) -> Box:
        box = self._sandboxes.get(call.params["id"])
        if box.record.spec.kernel is None:
            raise NotFoundError(f"sandbox {box.record.name} runs no kernel", hint="see: hyper ps")
        return box


def has_ended(record: Record) -> bool:
    """Whether a sandbox's kernel is gone; its sandbox may live on for a restart."""
    return record.state is State.EXITED or (record.state is not State.CREATED and record.exit_code != -1)


def facts(record: Record) -> dict[str, Any]:
    """A kernel as clients see it; ``connection`` is without the key, which the client chose."""
    return {
        "id": record.id,
        "name": record.name,
        "state": "exited" if has_ended(record) else str(record.state),
        "sandbox_state": str(record.state),
        "exit_code": record.exit_code,
        "death": record.death,
        "reason": record.reason,
        "connection": record.connection,
        "tier": record.tier,
        "notes": list(record.notes),
    }


def _owner(data: dict[str, Any]) -> Owner:
    try:
        owner = Owner(**data)
        if not isinstance(owner.pid, int) or not isinstance(owner.start_ticks, int):
            raise TypeError("pid and start_ticks are no numbers")
        return replace(owner, grace_s=float(owner.grace_s))
    except (TypeError, ValueError) as exc:
        raise RequestError(f"the owner cannot be read: {exc}", hint="give pid, start_ticks and grace_s") from exc


def _spec(data: Any) -> SandboxSpec:
    """A spec from a request.

    :raise RequestError: it is none.
    """
    if not isinstance(data, dict):
        raise RequestError("the spec is not an object")
    try:
        return SandboxSpec.from_dict(data)
    except (TypeError, ValueError, AttributeError) as exc:
        raise RequestError(f"the spec cannot be read: {exc}") from exc
