"""Every sandbox of this user: made, started, stopped, waited for, removed, adopted and swept.

A sandbox's record belongs to its shim while that lives, and to hyperd before and after.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

from hyper_kernel.daemon.admission import Admission
from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.create_body import plan_argv
from hyper_kernel.daemon.errors import AlreadyError
from hyper_kernel.daemon.events import Events
from hyper_kernel.daemon.keeper import GRACE_S, Keeper, tail
from hyper_kernel.daemon.ledger import Ledger
from hyper_kernel.daemon.names import check_name, new_id, new_name
from hyper_kernel.daemon.policy import PolicyFile, Rules
from hyper_kernel.daemon.shims import Shim, Shims, listen
from hyper_kernel.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    GuestError,
    HostError,
    HyperError,
    LostError,
    NotFoundError,
    RequestError,
)
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.policy.rules import asked_of, only_asked
from hyper_kernel.sandbox.death import Cause, Death
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.spec import SandboxSpec

log = logging.getLogger(__name__)


class Sandboxes:
    """The registry. All methods run on one event loop.

    :param shims: started by the caller.
    """

    def __init__(self, paths: Paths, shims: Shims, images: ImageStore, events: Events, admission: Admission) -> None:
        self._paths = paths
        self._shims = shims
        self._images = images
        self._events = events
        self._boxes: dict[str, Box] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper = Keeper(paths)
        #: Everything that starts something waits for its turn here.
        self.admission = admission
        #: What all that starts something has to obey.
        self.rules = Rules(paths, PolicyFile(paths.policy), Ledger(paths.state / "cpu.json"), self._live_records)

    def list(self) -> list[Box]:
        """All sandboxes, newest first."""
        return sorted(self._boxes.values(), key=lambda box: box.record.created_s, reverse=True)

    @property
    def alive(self) -> int:
        """How many have a machine."""
        return sum(box.is_live for box in self._boxes.values())

    def get(self, ref: str) -> Box:
        """The sandbox of an id, a name, or the start of an id that fits only one.

        :raise NotFoundError, RequestError: none, or more than one.
        """
        if box := self._boxes.get(ref):
            return box
        name = ref.removeprefix("/")
        for box in self._boxes.values():
            if box.record.name == name:
                return box
        found = [box for ident, box in self._boxes.items() if len(ref) >= 1 and ident.startswith(ref)]
        if not found:
            raise NotFoundError(f"No such container: {ref}", hint="list sandboxes with: hyper ps -a")
        if len(found) > 1:
            raise RequestError(f"{ref} is the start of {len(found)} ids", hint="give more characters of the id")
        return found[0]

    # -- life ---------------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec, name: str = "") -> Box:
        """Record a sandbox; no machine yet.

        :raise NotFoundError: there is no such image.
        :raise RequestError: nothing says what to run.
        :raise ConflictError: the name is in use.
        :raise DeniedError: it asks for more than policy allows.
        """
        image = self._images.get(spec.image)
        if not spec.kernel and not spec.process.argv:
            argv = plan_argv(None, None, image.config)
            spec = replace(spec, process=replace(spec.process, argv=argv))
        name = self._free_name(name)
        given, asked = self.rules.admit(spec), asked_of(spec)
        record = Record(
            id=self._free_id(), name=name, spec=given, asked=asked, image_id=image.id, created_s=time.time()
        )
        record.save(self._paths.sandboxes)
        box = self._boxes[record.id] = Box(record, self._paths, self._changed)
        self.tell(box, "create")
        return box

    async def start(self, box: Box) -> None:
        """Start the machine; returns when its program or kernel runs (or has run).

        :raise AlreadyError: it is live.
        :raise BusyError: there is no room for it now; nothing has happened (but one that removes itself is gone).
        :raise DeniedError: policy has changed, and forbids it now; as with BusyError.
        :raise HostError, GuestError: it did not come up; its record says exited, and why.
        """
        turn = await self.admission.wait_turn()  # not shielded: a client that gives up leaves the queue
        await self._finish(turn.spend(self._start(box)))

    async def stop(self, box: Box, timeout_s: float = 10.0) -> None:
        """End the program by its stop signal, after ``timeout_s`` by force; returns when it has exited.

        :raise AlreadyError: it is not live.
        """
        if not box.is_live:
            raise AlreadyError(f"sandbox {box.record.name} is not running")
        await self._finish(self._stop(box, timeout_s))

    async def kill(self, box: Box, number: int = 9) -> None:
        """Send a signal to the program; SIGKILL ends the machine.

        :raise ConflictError: it is not running.
        """
        if not box.is_live:
            raise ConflictError(f"container {box.record.id[:12]} is not running", hint="see: hyper ps -a")
        if number == 9:
            await self._finish(self._kill(box))
        else:
            await box.request("signal", signal=number)
        self.tell(box, "kill", signal=str(number))

    async def restart(self, box: Box, timeout_s: float = 10.0) -> None:
        """Stop it if it is live, then start it."""
        if box.is_live:
            await self.stop(box, timeout_s)
        await self.start(box)
        self.tell(box, "restart")

    async def renew(self, box: Box, spec: SandboxSpec, asked: tuple[str, ...]) -> None:
        """Kill its machine if it has one, then start a fresh one as ``spec`` says; what its kernel wrote goes along.

        :param asked: see ``policy.rules.asked_of``.
        :raise BusyError, DeniedError, HostError, GuestError: as :meth:`start`.
        """
        self.rules.admit(only_asked(spec, asked))
        notes: tuple[str, ...] = ()
        if box.is_live:
            try:
                await box.request("kernel.keep")
            except HyperError as exc:
                notes = (f"what the kernel wrote before its restart is lost: {exc}",)
                log.warning("%s: %s", box, notes[0])
            await self._finish(self._kill(box))
        box.record = box.record.changed(spec=spec, asked=asked, notes=notes)
        await self.start(box)

    async def end(self, box: Box, death: Death, reason: str) -> None:
        """Kill a sandbox against its user's will; its record says why. Nothing happens to one that has ended."""
        if box.is_live:
            await self._finish(self._kill(box, death=str(death), reason=f"{death}: {reason}"))

    async def remove(self, box: Box, *, force: bool = False) -> None:
        """Forget a sandbox and all that belongs to it.

        :raise ConflictError: it is live and ``force`` is not set.
        """
        if box.is_live and not force:
            raise ConflictError(
                f"cannot remove container {box.record.name}: container is running: "
                "stop the container before removing or force remove",
                hint=f"run: hyper rm -f {box.record.name}",
            )
        await self._finish(self._remove(box))

    def rename(self, box: Box, name: str) -> None:
        """Give it another name.

        :raise ConflictError: the name is in use.
        """
        old, name = box.record.name, self._free_name(name)
        box.rename(name)
        self.tell(box, "rename", oldName=f"/{old}")

    def tell(self, box: Box, action: str, **attributes: str) -> None:
        """Publish an event of a sandbox."""
        record = box.record
        base = {"image": record.spec.image, "name": record.name, **record.spec.labels}
        self._events.publish(action, record.id, base | attributes)

    # -- start and end of hyperd --------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over what an earlier hyperd left: connect to live shims, sweep what dead ones left."""
        folders = self._paths.sandboxes.iterdir() if self._paths.sandboxes.is_dir() else ()
        for folder in sorted(folders):
            try:
                record = Record.load(folder)
            except HostError as exc:
                log.warning("skipped: %s", exc)
                continue
            box = self._boxes[record.id] = Box(record, self._paths, self._changed)
            await self._adopt_one(box)
            if not box.is_live:
                self.rules.ledger.settle(record.id, box.record.cpu_s)
        self._sweep_run()

    async def close(self) -> None:
        """Let go of all shims; they live on."""
        await self._keeper.close()
        for box in self._boxes.values():
            if box.shim:
                await box.shim.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _adopt_one(self, box: Box) -> None:
        if await self._reach(box):
            log.info("adopted %s", box)
        elif box.is_live or box.socket.exists():
            self._keeper.bury(box)
        elif box.record.state is State.EXITED and box.record.spec.auto_remove:
            self._spawn(self._remove(box))

    async def _reach(self, box: Box) -> bool:
        """Connect to a shim that is there already; whether there was one."""
        if box.socket.exists():
            with contextlib.suppress(OSError, HyperError):
                self._keeper.hold(box, await Shim.dial(box.socket, box.take))
                return True
        return False

    def _sweep_run(self) -> None:
        """Remove the socket folders that no sandbox has."""
        parent = self._paths.run / "s"
        known = {ident[:8] for ident in self._boxes}
        for folder in parent.iterdir() if parent.is_dir() else ():
            if folder.name not in known:
                log.info("swept %s", folder)
                shutil.rmtree(folder, ignore_errors=True)

    # -- steps --------------------------------------------------------------------------------------------------

    async def _start(self, box: Box) -> None:
        async with box.lock:
            if not box.is_live:
                await self._keeper.settle(box)
            # A hyperd that died right after its fork has left a shim that nobody knew of.
            if box.is_live or await self._reach(box):
                raise AlreadyError(f"sandbox {box.record.name} is already running")
            if box.removed:
                raise NotFoundError(f"No such container: {box.record.name}", hint="it was removed before its turn")
            try:
                self.admission.check()
                # No await between this and renew(): else two could take the last place that the user has.
                box.record = box.record.changed(spec=self.rules.admit_start(box.record))
            except (BusyError, DeniedError):
                if box.record.spec.auto_remove:
                    self._spawn(self._remove(box))
                raise
            self.rules.ledger.begin(box.record.id)
            box.renew()
            try:
                make_private(box.socket.parent)
                with listen(box.socket) as listener:
                    box.shim_pid = await self._shims.get(box.record, listener)
                await self._keeper.meet(box)
            except (HyperError, OSError) as exc:
                self._keeper.bury(box, Cause(None, f"cannot start: {exc}"))
                if isinstance(exc, OSError):
                    raise HostError(f"cannot start {box.record.name}: {exc}", hint="run: hyper doctor") from exc
                raise
        await box.wait_for(lambda: box.ran or not box.is_live)
        if not box.ran:
            raise _start_error(box)

    async def _stop(self, box: Box, timeout_s: float) -> None:
        await self._keeper.wait_shim(box)
        with contextlib.suppress(LostError, ConflictError):  # the shim may end before its answer is out
            await box.request("stop", timeout_s=timeout_s, deadline_s=timeout_s + GRACE_S)
        await self._keeper.wait_exit(box)
        self.tell(box, "stop")

    async def _kill(self, box: Box, **why: str) -> None:
        await self._keeper.wait_shim(box)
        with contextlib.suppress(LostError, ConflictError):
            await box.request("kill", deadline_s=GRACE_S, **why)
        await self._keeper.wait_exit(box)

    async def _remove(self, box: Box) -> None:
        if box.is_live:
            await self._kill(box)
        async with box.lock:
            if box.record.id not in self._boxes:
                return
            await self._keeper.settle(box)
            box.record.remove_sockets(self._paths)
            shutil.rmtree(box.folder, ignore_errors=True)
            del self._boxes[box.record.id]
            box.removed = True
            box.publish()
        self.tell(box, "destroy")

    async def _remove_read(self, box: Box) -> None:
        """Remove a sandbox that has exited by itself, once those who were attached have read what it wrote."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await box.wait_for(lambda: not box.readers)
        await self._remove(box)

    def _changed(self, box: Box, before: State) -> None:
        """Called by a box when its sandbox took a step, or its kernel died."""
        state = box.record.state
        if box.record.death == Death.OUT_OF_MEMORY and not box.told_oom:
            box.told_oom = True
            self.tell(box, "oom", death=box.record.death)
        if state is before:
            return
        # A program that ends at once may never be seen running; its events are whole all the same.
        if state is State.RUNNING or (state is State.EXITED and box.ran and not box.told_start):
            box.told_start = True
            self.tell(box, "start")
        if state is State.EXITED:
            self.rules.ledger.settle(box.record.id, box.record.cpu_s)
            death = {"death": box.record.death} if box.record.death else {}
            self.tell(box, "die", exitCode=str(box.record.exit_code), **death)
            if box.record.spec.auto_remove:
                self._spawn(self._remove_read(box))
        log.info("%s was %s", box, before)

    # -- small things -------------------------------------------------------------------------------------------

    def _live_records(self) -> Iterator[Record]:
        return (box.record for box in self._boxes.values() if box.is_live)

    def _free_id(self) -> str:
        """An id whose first eight characters, which name its socket folder, are free too."""
        taken = {ident[:8] for ident in self._boxes}
        while (ident := new_id())[:8] in taken:
            pass
        return ident

    def _free_name(self, name: str) -> str:
        taken = {box.record.name: box.record.id for box in self._boxes.values()}
        if not name:
            return new_name(taken)
        name = check_name(name)
        if name in taken:
            raise ConflictError(
                f'Conflict. The container name "/{name}" is already in use by container "{taken[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
                hint=f"run: hyper rm {name}, or choose another name",
            )
        return name

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work to its end even when the caller, whose client may go away, is cancelled."""
        await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) and not isinstance(error, HyperError):
        log.error("work on a sandbox failed", exc_info=error)


def _start_error(box: Box) -> HyperError:
    record = box.record
    reason = record.reason or "it exited before its program ran"
    if record.exit_code in (126, 127):
        cause = "executable file not found in $PATH" if record.exit_code == 127 else "permission denied"
        return RequestError(f"cannot start {record.name}: {reason}: {cause}", hint="check the command's name")
    return GuestError(
        f"sandbox {record.name} did not start: {reason}" + tail(box.folder / "console.log"),
        hint="" if record.spec.auto_remove else f"the whole console is in {box.folder / 'console.log'}",
    )
