"""Routes for what sandboxes changed: looked at, and taken over into the host's folder that was copied in.

The shim reads what the guest says; hyperd reads what the shim has kept, and writes in the folder as its user may.
"""

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.daemon.shims import open_stream
from hyper_kernel.daemon.streams import archive_chunks
from hyper_kernel.errors import ConflictError, GuestError, NotFoundError, RequestError
from hyper_kernel.review.desk import Desk
from hyper_kernel.review.kept import MAX_LISTING, parse_lines, read_review
from hyper_kernel.review.names import shown
from hyper_kernel.sandbox.record import State
from hyper_kernel.spec import LIVE

log = logging.getLogger(__name__)

#: How long a guest may take to hand over what it changed, in seconds.
_LOOK_S = 600.0
#: Docker's numbers for what became of a path.
_DOCKER_KINDS = {"=": 0, "+": 1, "-": 2}


class Reviews:
    """Answers for changes."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("GET", "/containers/{id}/changes", self.list_layer)
        one = "/hyper/v1/sandboxes/{id}"
        routes.add("GET", f"{one}/changes", self.list)
        routes.add("GET", f"{one}/changes/content", self.show)
        routes.add("POST", f"{one}/apply", self.apply)

    async def list(self, call: Call) -> Answer:
        """GET /hyper/v1/sandboxes/{id}/changes: what it changed as it is now, or with ``last=1`` as last looked at."""
        desk = await self._desk(self._box(call), again=not call.flag("last"))
        found = await asyncio.to_thread(desk.compare)
        facts = {"taken_s": desk.review.taken_s, "notes": [*desk.review.notes]}
        return Answer(body={**facts, "changes": [each.as_dict() for each in found]})

    async def show(self, call: Call) -> Answer:
        """GET /hyper/v1/sandboxes/{id}/changes/content?path=: both sides of a change, as it was last looked at."""
        box, path = self._box(call), call.query.get("path", "")
        desk = await self._desk(box, again=False)
        if (change := desk.find(path)) is None:
            raise NotFoundError(f"{box.record.name} did not change {shown(path)}", hint="look again at what it changed")
        return Answer(body=await asyncio.to_thread(desk.read, change))

    async def apply(self, call: Call) -> Answer:
        """POST /hyper/v1/sandboxes/{id}/apply {paths, all, force, dry_run}: make changes in the host's folder.

        They are made as they were last looked at. ``paths`` is a list, in which a folder stands for all below it, or
        an object with the SHA-256 that each was seen with; ``all`` takes every change that need not be named.
        """
        box, body = self._box(call), await call.json()
        wanted = _wanted(body)
        force, dry_run = bool(body.get("force")), bool(body.get("dry_run"))
        desk = await self._desk(box, again=False)
        async with box.lock:
            if box.record.state not in (State.RUNNING, State.EXITED):  # a start copies the folder
                raise ConflictError(f"sandbox {box.record.name} is {box.record.state}", hint="wait until it runs")
            applied, refused = await asyncio.to_thread(desk.apply, wanted, force=force, dry_run=dry_run)
        log.info("%r: applied %d changes, refused %d", box, 0 if dry_run else len(applied), len(refused))
        done = {"applied": applied, "refused": [asdict(each) for each in refused]}
        return Answer(body={"taken_s": desk.review.taken_s, **done})

    async def list_layer(self, call: Call) -> Answer:
        """GET /containers/{id}/changes: what a running sandbox has not as its image."""
        box = self._sandboxes.get(call.params["id"])
        if box.record.state is not State.RUNNING:
            raise ConflictError(f"container {box.record.name} is not running: what it changed is gone")
        frames, _ = await open_stream(box.socket, "list", path="/", layer=True)
        data = b""
        try:
            async for chunk in archive_chunks(frames, "listing changes"):
                data += chunk
                # SECURITY: the guest decides what comes, but not how much of it.
                if len(data) > MAX_LISTING:
                    raise GuestError("the guest lists more changes than are taken")
        finally:
            frames.close()
        lines = sorted(parse_lines(data), key=lambda line: line.path)
        return Answer(body=[{"Path": f"/{_clean(line.path)}", "Kind": _DOCKER_KINDS[line.mark]} for line in lines])

    def _box(self, call: Call) -> Box:
        box = self._sandboxes.get(call.params["id"])
        kernel = box.record.spec.kernel
        if kernel and kernel.files in LIVE:
            how = "what it writes is there already" if kernel.files == "rw" else "it cannot write there"
            raise RequestError(f"there is nothing to review: {box.record.name} sees its folder live, and {how}")
        if not _folder(box):
            raise RequestError(
                f"sandbox {box.record.name} has no folder of this machine",
                hint=f"see: hyper diff {box.record.name}, and copy with: hyper cp",
            )
        return box

    async def _desk(self, box: Box, *, again: bool) -> Desk:
        """What the sandbox changed, beside the host's folder.

        :param again: whether to look now, if it runs; otherwise only where nobody has looked yet.
        """
        review = None if again else await asyncio.to_thread(read_review, box.folder)
        if review is None and box.record.state is State.RUNNING:
            await box.request("review", deadline_s=_LOOK_S)
        review = review or await asyncio.to_thread(read_review, box.folder)
        if review is None:
            raise ConflictError(
                f"sandbox {box.record.name} is {box.record.state}, and nobody looked at its changes while it ran",
                hint="look while it runs",
            )
        return Desk(sandbox=box.folder, folder=_folder(box), review=review)


def _folder(box: Box) -> str:
    """The host's folder that was copied in; empty where none was."""
    kernel = box.record.spec.kernel
    return kernel.folder if kernel else ""


def _wanted(body: dict[str, Any]) -> dict[str, str]:
    """Paths, and the SHA-256 that each was seen with, from a request; an empty path means all."""
    paths = body.get("paths") or {}
    wanted = (
        dict.fromkeys(paths, "") if isinstance(paths, list) and all(isinstance(each, str) for each in paths) else paths
    )
    if not isinstance(wanted, dict) or any(not isinstance(digest, str) for digest in wanted.values()):
        raise RequestError("paths is neither a list of paths nor an object of paths and digests")
    wanted = {path.strip("/"): digest for path, digest in wanted.items() if path.strip("/")}
    if body.get("all"):
        wanted[""] = ""
    if not wanted:
        raise RequestError("nothing says which changes to apply", hint="name paths, or all of them")
    return wanted


def _clean(path: str) -> str:
    """A path that may not be UTF-8, as text."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
