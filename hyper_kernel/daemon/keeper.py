"""Between hyperd and the shims: connections that are watched, and the truth about shims that died."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.shims import Shim, is_running, kill_recorded
from hyper_kernel.errors import HostError, HyperError
from hyper_kernel.host.jail import sweep_jails
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.death import Cause, Death, named
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.sandbox.words import printable

log = logging.getLogger(__name__)

#: How long a lost control connection may stay unexplained, and a shim that has ended may take to leave, in seconds.
GRACE_S = 5.0
#: How long a sandbox that was told to end may take: an orderly power-off has 5 s of its own, and emulation is slow.
EXIT_S = 15.0
#: How often a shim is asked whether it is there, and how long it may then take to say so, in seconds.
_ASK_EVERY_S, _ANSWER_S = 30.0, 60.0
#: The exit code of a sandbox that was killed.
KILLED = 137
SHIM_KILLED = named(Death.HOST_LOST, "the shim was killed")


class Keeper:
    """Keeps the connections to shims, and buries sandboxes whose shim is dead or hangs."""

    def __init__(self, paths: Paths, *, ask_every_s: float = _ASK_EVERY_S, answer_s: float = _ANSWER_S) -> None:
        self._paths = paths
        self._ask_every_s, self._answer_s = ask_every_s, answer_s
        self._watches: set[asyncio.Task[None]] = set()
        self._closing = False

    async def close(self) -> None:
        """Let go of all shims; they live on."""
        self._closing = True
        for task in tuple(self._watches):
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def meet(self, box: Box) -> None:
        """Connect to a shim that was just forked; one whose sandbox ended at once may be gone already.

        :raise HostError: it is gone, and has not written how the sandbox ended.
        """
        with contextlib.suppress(OSError, HyperError):
            self.hold(box, await Shim.dial(box.socket, box.take))
            return
        last = Record.load(box.folder)
        if last.state is not State.EXITED:
            words = tail(box.folder / "shim.log")
            raise HostError(f"cannot start {box.record.name}: its shim ended at once{words}", hint="run: hyper doctor")
        box.take(last.as_dict())

    def hold(self, box: Box, shim: Shim) -> None:
        """Take a connection over and watch it."""
        box.shim = shim
        box.publish()
        task = asyncio.create_task(self._watch(box, shim))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def bury(self, box: Box, cause: Cause = SHIM_KILLED) -> None:
        """Write the end of a sandbox whose shim cannot; leave no process and no socket of it."""
        with contextlib.suppress(HostError):
            last = Record.load(box.folder)
            recorded_s = (box.folder / "record.json").stat().st_mtime
            kill_recorded(last.shim_pid, recorded_s=recorded_s)
            kill_recorded(last.qemu_pid, recorded_s=recorded_s)
            if last.state is State.EXITED and last.finished_s:
                box.take(last.as_dict())
        if box.shim_pid and is_running(box.shim_pid):
            kill_recorded(box.shim_pid, recorded_s=box.forked_s)
        sweep_jails()
        box.record.remove_sockets(self._paths)
        if box.is_live:
            log.warning("%s: %s", box, cause.reason)
            end = {"state": State.EXITED, "exit_code": KILLED, "finished_s": time.time()}
            name = {"reason": cause.reason, "death": str(cause.death or "")}
            box.take(box.record.as_dict() | end | name)
            box.save()

    async def wait_shim(self, box: Box) -> None:
        """Wait for the shim of a sandbox whose start has only begun."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await box.wait_for(lambda: box.shim is not None or not box.is_live)

    async def wait_exit(self, box: Box) -> None:
        """Wait until it has exited; a shim that does not get there is killed."""
        try:
            async with asyncio.timeout(EXIT_S):
                await box.wait_for(lambda: not box.is_live)
        except TimeoutError:
            self.bury(box, named(Death.KILLED, "its shim did not answer"))

    async def settle(self, box: Box) -> None:
        """Wait until the shim of a sandbox that has exited is gone."""
        try:
            async with asyncio.timeout(GRACE_S):
                await box.wait_for(lambda: box.shim is None)
        except TimeoutError:
            kill_recorded(box.shim_pid, recorded_s=box.forked_s)
            if box.shim:
                await box.shim.close()

    async def _watch(self, box: Box, shim: Shim) -> None:
        """Wait for the end of a control connection, and see to it that the record tells the truth after it."""
        while not await self._ends(shim):
            # SECURITY: a shim that its guest brought to a halt keeps no limit any more: it is asked, and killed.
            if not await self._answers(shim):
                self.bury(box, named(Death.HOST_LOST, f"the shim did not answer for {self._answer_s:g} s"))
        if self._closing:
            return
        if box.is_live:
            await self._look_for(box)
        if box.shim is shim:
            box.shim = None
            if not box.record.spec.auto_remove:  # else it goes next
                box.save()
            box.publish()

    async def _ends(self, shim: Shim) -> bool:
        """Whether the connection ends before it is time to ask."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._ask_every_s):
                await shim.wait_closed()
                return True
        return False

    async def _answers(self, shim: Shim) -> bool:
        """Whether a shim answers in time, be it with an error; one whose connection has ended meanwhile need not."""
        ending = asyncio.create_task(shim.wait_closed())
        asking = asyncio.create_task(shim.request("ping", deadline_s=self._answer_s + GRACE_S))
        try:
            # A connection that ends also ends what was asked on it: only silence counts.
            done, _ = await asyncio.wait({ending, asking}, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            ending.cancel()
            asking.cancel()
            await asyncio.gather(ending, asking, return_exceptions=True)

    async def _look_for(self, box: Box) -> None:
        """The connection broke though the sandbox was live: connect again, or find out that the shim is dead."""
        deadline = time.monotonic() + GRACE_S
        while is_running(box.shim_pid) and time.monotonic() < deadline:
            with contextlib.suppress(OSError, HyperError):
                self.hold(box, await Shim.dial(box.socket, box.take))
                return
            # Between a broken connection and the end of its process there is no event for somebody else's child.
            await asyncio.sleep(0.05)
        if box.is_live:
            self.bury(box)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, as the end of a message; without what a terminal would obey."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            text = file.read().decode(errors="replace").strip()
    except OSError:
        return ""
    clean = printable(text.replace("\r", ""))
    return "\n" + "\n".join(clean.splitlines()[-lines:]) if clean else ""
