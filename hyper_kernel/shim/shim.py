"""One sandbox, from its record to its end."""

import asyncio
import logging
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from hyper_kernel.agent.agent import RefusedError
from hyper_kernel.errors import ConflictError, GuestError, RequestError
from hyper_kernel.host.memory import read_oom_kills
from hyper_kernel.host.share import hold_cpu
from hyper_kernel.host.timing import step
from hyper_kernel.host.usage import read_own_cpu_s
from hyper_kernel.link import Frames
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.sandbox.death import Cause, Death, ProgramEnd, name_machine_end, name_program_end, named
from hyper_kernel.sandbox.plan import Plan, plan_machine
from hyper_kernel.sandbox.record import MISSED, Record, State
from hyper_kernel.sandbox.source import Guest, Source
from hyper_kernel.shim.control import Control
from hyper_kernel.shim.kernel import Kernel
from hyper_kernel.shim.limits import Patience, hold_cells, wait_wall
from hyper_kernel.shim.live import mount_live, open_live
from hyper_kernel.shim.liveness import Pulse
from hyper_kernel.shim.owner import Lease
from hyper_kernel.shim.program import OutputLog, Program
from hyper_kernel.shim.work import Work
from hyper_kernel.spec import LIVE, KernelSpec, Owner
from hyper_kernel.wire import Type, WireError

log = logging.getLogger(__name__)

#: How long an orderly power-off may take, in seconds, before the machine is killed.
_POWER_OFF_S = 5.0
#: How long the machine's own end may take to be noticed after its connections broke, in seconds.
_NAMING_S = 2.0
#: Lines of the console's end in which a panic is looked for.
_PANIC_LINES = 200
#: Exit codes as Docker's: our failure, killed.
_FAILED, _KILLED = 125, 137
_SIGTERM = 15


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sandbox ended. ``cause`` is empty after a plain exit of its program."""

    cause: Cause
    code: int
    orderly: bool = False


class Shim:
    """Owns one sandbox.

    :param paths: where its files are.
    :param record: what is wanted; state ``created``.
    :param source: where its machine comes from.
    :param listener: the bound socket it is controlled by.
    """

    def __init__(self, paths: Paths, record: Record, source: Source, listener: socket.socket) -> None:
        self._paths = paths
        self._source = source
        self._record = record
        self._folder = paths.sandboxes / record.id
        self._run = paths.sandbox_run(record.id)
        self._control = Control(self)
        self._listener = listener
        self._program = Program(OutputLog(self._folder / "output.jsonl", keep=bool(record.spec.kernel)))
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._guest: Guest | None = None
        self._kernel: Kernel | None = None
        self._work: Work | None = None
        self._pulse: Pulse | None = None
        self._patience = Patience()
        self._lease = Lease(record.spec.owner)
        self._operations: dict[str, Callable[..., Awaitable[dict[str, Any] | None]]] = {
            "kernel.signal": self._call_kernel_signal,
            "kernel.keep": self._call_kernel_keep,
            "kernel.missed": self._call_kernel_missed,
            "review": self._call_review,
            "own": self._call_own,
            "signal": self._call_signal,
            "resize": self._call_resize,
            "stop": self._call_stop,
            "kill": self._call_kill,
            "stats": self._call_stats,
            "liveness": self._call_liveness,
        }

    def __repr__(self) -> str:
        return f"<Shim {self._record.name} {self._record.state}>"

    async def run(self) -> None:
        """The whole life; returns when everything but the record and the logs is gone."""
        async with self._control.serve(self._listener):
            try:
                ending = await self._live()
                await self._program.finish(ending.code)
                # What the kernel died of says more than how its sandbox went then.
                named_before = self._record.death
                await self._change(
                    state=State.EXITED,
                    exit_code=ending.code,
                    **({} if named_before else _name(ending.cause)),
                    finished_s=time.time(),
                    qemu_pid=0,
                    cpu_s=read_own_cpu_s(),
                )
            finally:
                # While we still serve: once we do not, the sandbox may be started again and have new sockets there.
                shutil.rmtree(self._run, ignore_errors=True)

    async def _live(self) -> Ending:
        await self._change(state=State.BOOTING, started_s=time.time())
        self._end_by(self._lease.wait_end())
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_tasks)
            starting = asyncio.create_task(self._start(stack))
            racing: list[asyncio.Future[Any]] = [starting, self._ending]
            await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            if not starting.cancelled() and (problem := starting.exception()):
                # A lost connection is only a symptom: the machine's own end names the cause a moment later.
                await asyncio.wait({self._ending}, timeout=_NAMING_S)
                self._fail(problem)
            ending = await self._ending
            log.info("ending: %s", ending)
            if self._kernel and self._record.exit_code == -1:
                await self._kernel.say_last(ending.cause)
            await self._change(state=State.STOPPING)
            if ending.orderly and self._guest:
                await self._power_off(self._guest)
        return ending

    def _fail(self, problem: BaseException) -> None:
        log.error("starting failed", exc_info=problem)
        reason = str(problem) or repr(problem)
        if hint := getattr(problem, "hint", ""):
            reason += f" ({hint})"
        self._end(Cause(None, reason), problem.code if isinstance(problem, RefusedError) else _FAILED)

    async def _start(self, stack: AsyncExitStack) -> None:
        """Boot, give the guest its identity, start the program or the kernel."""
        with step(log, "plan"):
            plan = await plan_machine(self._paths, self._record)
        folders = await stack.enter_async_context(open_live(self._record.spec, self._paths, self._note))
        with step(log, "get a guest"):
            source = self._source.start(plan.machine, self._folder, self._on_event, plan.ready_kernel)
            guest = await stack.enter_async_context(source)
        self._guest = guest
        self._pulse = Pulse(guest.machine.pid, lambda: guest.agent.request("ping"), share=self._share())
        self._end_by(self._wait_machine(guest))
        self._end_by(self._wait_agent(guest))
        guest.end.on_violation = lambda error: self._end(
            named(Death.VIOLATION, f"the guest broke the vsock protocol: {error}"), _KILLED
        )
        with step(log, "resync the guest"):
            processes = self._record.spec.limits.processes
            await guest.agent.resync(
                hostname=plan.hostname, scratch_mib=plan.scratch_mib, processes=processes, image=plan.image
            )
        self._record = self._record.changed(tier=plan.machine.tier, qemu_pid=guest.machine.pid)
        await mount_live(folders, guest.agent)
        if self._record.spec.kernel:
            await self._start_kernel(stack, guest, self._record.spec.kernel, plan.kernel)
        else:
            await self._start_program(guest, plan)
        await self._change(state=State.RUNNING)
        await self._hold(stack, guest)

    async def _hold(self, stack: AsyncExitStack, guest: Guest) -> None:
        """From here on, hold it to its limits, or end it."""
        limits = self._record.spec.limits
        await stack.enter_async_context(hold_cpu(guest.machine.pid, limits.cpu_percent))
        if limits.wall_s:
            self._end_by(wait_wall(limits.wall_s))
        if self._kernel and (limits.cell_s or limits.output_bytes):
            splice = self._kernel.splice
            self._end_by(hold_cells(splice.cells, limits, self._kernel.interrupt, splice.say))

    async def _start_kernel(self, stack: AsyncExitStack, guest: Guest, spec: KernelSpec, name: str) -> None:
        channels = self._paths.channels(spec.channels or self._record.id[:8])
        make_private(channels.parent)
        self._kernel = Kernel(guest, spec, self._record.spec.limits)
        self._kernel.splice.on_violation = self._on_violation
        stack.push_async_callback(self._kernel.close)
        note = ""
        if spec.files not in LIVE:  # what is live needs no copy, and no way back
            self._work = Work(guest.agent, self._folder)
            with step(log, "copy the folder"):
                note = await self._work.fill(spec.folder if spec.files == "copy" else "")
        with step(log, "start or resync the kernel"):
            connection = await self._kernel.start(name, channels)
        self._spawn(self._carry(self._kernel.follow_log(self._program)))
        self._record = self._record.changed(connection=connection, notes=(*self._record.notes, *filter(None, [note])))

    async def _start_program(self, guest: Guest, plan: Plan) -> None:
        stream = await guest.agent.open("exec", **plan.program)
        self._spawn(self._carry(self._run_program(stream)))

    async def _run_program(self, stream: Frames) -> None:
        with closing(stream):
            end = await self._program.run(stream, open_stdin=self._record.spec.process.open_stdin)
            self._end(name_program_end(end, self._record.spec), end.code, orderly=True)

    async def _carry(self, output: Awaitable[None]) -> None:
        """Carry what it writes; what goes wrong with that ends it."""
        try:
            await output
        except GuestError as exc:
            await asyncio.wait({self._ending}, timeout=_NAMING_S)  # as above
            self._end(named(Death.VIOLATION, str(exc)), _FAILED)
        except OSError as exc:
            self._end(named(Death.HOST_LOST, f"cannot keep what it writes: {exc}"), _FAILED)

    async def _wait_machine(self, guest: Guest) -> Cause:
        kills = read_oom_kills()
        end = await guest.machine.wait_exit()
        console = guest.machine.console_tail(_PANIC_LINES)
        return name_machine_end(end, console, self._record.spec.memory_mib, host_oom=read_oom_kills() > kills)

    async def _wait_agent(self, guest: Guest) -> Cause:
        how = await guest.agent.wait_lost()
        await asyncio.sleep(_POWER_OFF_S)  # of a machine that ends, this is only a symptom
        return named(Death.VIOLATION, how)

    def _end_by(self, cause: Awaitable[Cause]) -> None:
        """Have it killed as soon as there is a cause."""

        async def wait() -> None:
            self._end(await cause, _KILLED)

        self._spawn(wait())

    def _on_violation(self, what: str) -> None:
        """The kernel broke the rules of a channel, and that connection has ended."""
        if cause := self._patience.take(what):
            self._end(cause, _KILLED)

    async def _power_off(self, guest: Guest) -> None:
        try:
            async with asyncio.timeout(_POWER_OFF_S):
                await guest.agent.power_off()
                await guest.machine.wait_exit()
        except TimeoutError:
            log.warning("the guest did not power off within %g s", _POWER_OFF_S)

    def _on_event(self, event: dict[str, Any]) -> None:
        """An event of the guest's agent; called by the link's reader."""
        # SECURITY: a kernel ends once; what took the agent's place could say it without end.
        if event.get("event") != "kernel.exit" or not self._kernel or self._kernel.has_ended:
            return
        self._kernel.has_ended = True
        try:
            end = ProgramEnd.read(event)
        except WireError:
            end = ProgramEnd(code=_KILLED)
        self._spawn(self._bury_kernel(self._kernel, end))

    async def _bury_kernel(self, kernel: Kernel, end: ProgramEnd) -> None:
        """The sandbox stays, so that a restart finds it; the door or the owner's lease ends it."""
        cause = await kernel.ended(end.code, name_program_end(end, self._record.spec))
        log.info("the kernel ended with %d %s", end.code, cause.reason)
        await self._change(exit_code=end.code, **_name(cause))

    def _note(self, what: str) -> None:
        self._spawn(self._change(notes=(*self._record.notes, what)))

    def _end(self, cause: Cause, code: int, *, orderly: bool = False) -> None:
        if not self._ending.done():
            self._ending.set_result(Ending(cause, code, orderly))

    async def _change(self, **changes: Any) -> None:
        self._record = self._record.changed(**changes)
        self._record.save(self._paths.sandboxes)
        await self._control.announce()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_tasks(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what the control socket serves ---

    def record_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self._record) | {"spec": self._record.spec.as_dict()}

    async def call(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        """One operation of hyperd's.

        :raise RequestError: no such operation.
        :raise HyperError: it failed.
        """
        if op not in self._operations:
            raise RequestError(f"a shim does not know {op}")
        return await self._operations[op](**args) or {}

    async def open(self, kind: str, args: dict[str, Any]) -> Frames:
        """A stream of the guest's."""
        return await self._ready().agent.open(kind, **args)

    async def attach(self, frames: Frames, args: dict[str, Any]) -> None:
        """Serve a client of the main program."""
        await self._program.attach(frames, stdin=bool(args.get("stdin")), backlog=bool(args.get("backlog")))

    def _ready(self) -> Guest:
        if self._guest is None or self._record.state is not State.RUNNING:
            raise ConflictError(f"sandbox {self._record.name} is {self._record.state}, not running")
        return self._guest

    async def _call_kernel_signal(self, signal: int) -> None:
        self._ready()
        if self._kernel and self._record.exit_code == -1:
            await self._kernel.signal(signal)

    async def _call_kernel_keep(self) -> dict[str, Any]:
        """Keep what the kernel wrote for this sandbox's next machine."""
        self._ready()
        return {"count": await self._work.keep() if self._work else 0}

    async def _call_kernel_missed(self) -> dict[str, Any]:
        """Write what the kernel said while nobody heard it where hyperd reads it."""
        self._ready()
        return await self._kernel.write_missed(self._folder / MISSED) if self._kernel else {}

    async def _call_review(self) -> dict[str, Any]:
        """Keep what the kernel changed below its folder where hyperd reads it."""
        self._ready()
        return {"count": len((await self._work.review()).changes) if self._work else 0}

    async def _call_own(self, owner: dict[str, Any]) -> None:
        """Belong to another process from here on."""
        new = Owner(**owner)
        self._lease.hand_over(new)
        await self._change(spec=replace(self._record.spec, owner=new))

    async def _call_signal(self, signal: int) -> None:
        self._ready()
        if self._kernel:
            await self._call_kernel_signal(signal)
        else:
            await self._program.control(Type.SIGNAL, {"signal": signal})

    async def _call_resize(self, rows: int, cols: int) -> None:
        self._ready()
        await self._program.control(Type.RESIZE, {"rows": rows, "cols": cols})

    async def _call_stop(self, timeout_s: float) -> None:
        if self._guest and self._record.state is State.RUNNING and not self._kernel:
            await self._program.control(Type.SIGNAL, {"signal": _SIGTERM})
            await asyncio.wait({self._ending}, timeout=timeout_s)
            cause = named(Death.KILLED, f"it did not end within {timeout_s:g} s of SIGTERM")
            self._end(cause, _KILLED, orderly=True)
        self._end(Cause(), 0, orderly=True)

    async def _call_kill(self, death: str = Death.KILLED, reason: str = "killed") -> None:
        self._end(Cause(Death(death), reason), _KILLED)

    async def _call_stats(self) -> dict[str, Any]:
        guest = self._ready()
        return {"guest": await guest.agent.request("stats")}

    async def _call_liveness(self) -> dict[str, Any]:
        self._ready()
        assert self._pulse  # there is one as soon as there is a guest
        last_byte_s = self._kernel.splice.traffic.last_s if self._kernel else self._program.last_s
        liveness, idle_s = await self._pulse.look(last_byte_s)
        removed = dict(self._kernel.splice.firewall.removed) if self._kernel else {}
        return {"liveness": str(liveness), "idle_s": idle_s, "removed": removed}

    def _share(self) -> float:
        """How much of a processor it may use at most."""
        return self._record.spec.limits.cpu_percent / 100 or float(self._record.spec.cpus)


def _name(cause: Cause) -> dict[str, str]:
    """A cause as the record has it."""
    return {"death": str(cause.death or ""), "reason": cause.reason}
