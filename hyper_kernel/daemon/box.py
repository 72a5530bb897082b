"""One sandbox as hyperd holds it: its record, the connection to its shim, and who waits for it."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyper_kernel.daemon.shims import Shim
from hyper_kernel.errors import ConflictError, HyperError
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.record import Liveness, Record, State

log = logging.getLogger(__name__)

#: How long a shim may take to say how lively its sandbox is, in seconds: it waits 3 for the guest.
_LOOK_S = 5.0
_LIVE = (State.BOOTING, State.RUNNING, State.STOPPING)


class Box:
    """Holds the last record that is known; see :class:`Sandboxes` for what can be done with it.

    :param on_change: called with the box and its former state on each step, and when its kernel died; must not block.
    """

    def __init__(self, record: Record, paths: Paths, on_change: Callable[["Box", State], None]) -> None:
        self.folder = paths.sandboxes / record.id
        self.socket = paths.sandbox_run(record.id) / "shim.sock"
        self.lock = asyncio.Lock()
        self.shim: Shim | None = None
        self.shim_pid = record.shim_pid
        self.forked_s = 0.0
        self._on_change = on_change
        #: Whether its program or kernel has run since the last start.
        self.ran = record.state in (State.RUNNING, State.STOPPING)
        self.told_start = self.ran
        self.told_oom = bool(record.death)
        #: How often it has exited.
        self.exits = 0
        self.removed = False
        #: Attached clients, who may still be reading what it wrote.
        self.readers = 0
        self._sandboxes = paths.sandboxes
        self._changed = asyncio.Event()
        #: What the disk has, as far as we wrote it.
        self._saved: Record | None = record
        self.record = record.changed(name=self._saved_name() or record.name)

    def __repr__(self) -> str:
        return f"<sandbox {self.record.name} {self.record.id[:12]} {self.record.state}>"

    @property
    def is_live(self) -> bool:
        """Whether it has a machine, or is about to."""
        return self.record.state in _LIVE

    async def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at after every change."""
        while not is_so():
            await self._changed.wait()

    def publish(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    def take(self, data: dict[str, Any]) -> None:
        """Take over a record that the shim sent."""
        try:
            theirs = Record.from_dict(data)
        except (ValueError, TypeError, KeyError, HyperError) as exc:
            log.error("%r: its shim sent no record: %s", self, exc)
            return
        mine, before = self.record, self.record.state
        had_name = bool(self.record.death)
        # SECURITY: the shim parses what the guest sends; what hyperd decided (who, from what, how large) is not its
        # to change.
        self.record = theirs.changed(
            id=mine.id,
            name=mine.name,
            spec=mine.spec,
            asked=mine.asked,
            image_id=mine.image_id,
            created_s=mine.created_s,
        )
        self.shim_pid = theirs.shim_pid or self.shim_pid
        state = self.record.state
        # A program that ends at once may be seen as exited only; an end without a reason is that of a program.
        if state is State.RUNNING or (state is State.EXITED and theirs.started_s and not theirs.reason):
            self.ran = True
        if state is State.EXITED and before is not State.EXITED:
            self.exits += 1
        if state is not before or (self.record.death and not had_name):
            self._on_change(self, before)
        self.publish()

    def renew(self) -> None:
        """Make the record that of a sandbox that is about to start, and save it for the shim."""
        self.ran = self.told_start = self.told_oom = False
        self.forked_s = time.time()
        self.record = self.record.changed(
            state=State.CREATED,
            started_s=0.0,
            finished_s=0.0,
            exit_code=-1,
            reason="",
            death="",
            shim_pid=0,
            qemu_pid=0,
            cpu_s=0.0,
        )
        if self.record != self._saved:
            self.save()
        self._saved = None  # from here on the shim writes it
        self.record = self.record.changed(state=State.BOOTING)

    def save(self) -> None:
        """Write the record; only while no shim owns it. A full disk is logged, not raised."""
        try:
            if self.folder.exists():
                self.record.save(self._sandboxes)
                self._saved = self.record
        except HyperError as exc:
            log.error("%s", exc)

    def rename(self, name: str) -> None:
        """Change the name; kept beside the record, which the shim may be writing."""
        (self.folder / "name").write_text(name)
        self.record = self.record.changed(name=name)

    async def look(self) -> Record:
        """The record, with how lively the sandbox is now, as far as there is a shim that can say it."""
        if self.record.state is State.RUNNING and self.shim:
            with contextlib.suppress(HyperError, ValueError, TypeError, AttributeError):
                seen = await self.request("liveness", deadline_s=_LOOK_S)
                # SECURITY: the shim says it, which reads what the guest sends: known words and numbers, or nothing.
                idle_s = float(seen["idle_s"])
                if math.isfinite(idle_s):
                    removed = {str(what)[:100]: int(count) for what, count in (seen.get("removed") or {}).items()}
                    word = str(Liveness(seen["liveness"]))
                    return self.record.changed(liveness=word, idle_s=idle_s, removed=removed)
        return self.record

    async def request(self, op: str, *, deadline_s: float = 30.0, **args: Any) -> dict[str, Any]:
        """Ask the shim.

        :raise ConflictError: there is none.
        :raise GuestError, LostError: it failed, or nothing is known.
        """
        if self.shim is None:
            raise ConflictError(f"container {self.record.id[:12]} is not running", hint="see: hyper ps -a")
        return await self.shim.request(op, deadline_s=deadline_s, **args)

    def _saved_name(self) -> str:
        with contextlib.suppress(OSError, UnicodeError):
            path: Path = self.folder / "name"
            return path.read_text()[:128]
        return ""
