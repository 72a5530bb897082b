"""Routes that stream a sandbox's main program: attach and logs."""

import logging

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.logs import LogQuery, parse_tail, parse_time, read_log
from hyper_kernel.daemon.routing import Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call, Hijacked
from hyper_kernel.daemon.shims import RefusedError, open_stream
from hyper_kernel.daemon.streams import DetachKeys, carry, replay
from hyper_kernel.errors import LostError, RequestError
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)


class Attach:
    """Answers for attach and logs."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("POST", "/containers/{id}/attach", self.attach)
        routes.add("GET", "/containers/{id}/logs", self.logs)

    async def attach(self, call: Call) -> None:
        """POST /containers/{id}/attach: take the connection over; before a start, output comes once it runs."""
        box = self._sandboxes.get(call.params["id"])
        raw = box.record.spec.process.tty
        keys = DetachKeys(call.query.get("detachKeys", "")) if raw and call.flag("stdin") else None
        waits = not box.is_live
        client = await call.hijack(multiplexed=not raw)
        box.readers += 1
        try:
            if call.flag("stream"):
                await self._stream(call, box, client, keys=keys, waits=waits)
            elif call.flag("logs"):
                await replay(client, box, raw=raw, wanted=_kinds(call))
        except OSError as exc:
            log.debug("%r: the attached client is gone: %s", box, exc)
        finally:
            box.readers -= 1
            box.publish()
            await client.end()

    async def _stream(self, call: Call, box: Box, client: Hijacked, *, keys: DetachKeys | None, waits: bool) -> None:
        raw, wanted, exits = box.record.spec.process.tty, _kinds(call), box.exits
        self._sandboxes.tell(box, "attach")
        if waits:
            await box.wait_for(lambda: box.shim is not None or box.exits > exits or box.removed)
        stdin = call.flag("stdin") and box.record.spec.process.open_stdin
        try:
            frames, _ = await open_stream(box.socket, "attach", stdin=stdin, backlog=waits or call.flag("logs"))
        except (LostError, RefusedError):
            if waits:  # it ended before we came
                await box.wait_for(lambda: not box.is_live)
                await replay(client, box, raw=raw, wanted=wanted)
            return
        try:
            code = await carry(client, frames, raw=raw, stdin=stdin, wanted=wanted, keys=keys)
        finally:
            frames.close()
        if code is None and box.is_live:
            self._sandboxes.tell(box, "detach")

    async def logs(self, call: Call) -> None:
        """GET /containers/{id}/logs."""
        box = self._sandboxes.get(call.params["id"])
        kinds = _kinds(call)
        if not kinds:
            raise RequestError("you must choose at least one stream", hint="set stdout=1, stderr=1 or both")
        query = LogQuery(
            kinds=kinds,
            follow=call.flag("follow"),
            timestamps=call.flag("timestamps"),
            tail=parse_tail(call.query.get("tail", "")),
            since_s=parse_time(call.query.get("since", ""), 0.0),
            until_s=parse_time(call.query.get("until", ""), float("inf")),
        )
        kind = "raw" if box.record.spec.process.tty else "multiplexed"
        await call.begin(headers={"Content-Type": f"application/vnd.docker.{kind}-stream"})
        async for piece in read_log(box, query):
            await call.write(piece)
        call.finish()


def _kinds(call: Call) -> frozenset[Type]:
    names = {"stdout": Type.STDOUT, "stderr": Type.STDERR}
    return frozenset(kind for name, kind in names.items() if call.flag(name))
