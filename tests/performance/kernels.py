"""Kernels as their users meet them: starts, restarts, round trips, output. Hyper Python beside a local ipykernel."""

import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from subprocess import DEVNULL
from typing import Any

from jupyter_client import AsyncKernelClient, AsyncKernelManager

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.paths import find_paths
from tests.performance.home import open_home, renew_daemon, renew_daemon_with_template, wait_settled
from tests.performance.rounds import Figures, Found, Setting, in_turn
from tests.performance.table import Aim, Row
from tests.performance.watch import find_steps, step_rows, sum_steps_ms

LOCAL, HYPER = "python3", "hyper-python"
SIDES = {LOCAL: LOCAL, HYPER: HYPER}
_TIMEOUT_S = 300.0
#: What a shim's log of a start begins with.
_FIRST_STEP = "step plan"
#: The parts of a start.
_PARTS = {
    "launch": "until the manager has started it",
    "around": "  of which outside its shim",
    "ready": "from then until it is ready",
    "vain": "  of which wait_for_ready waits in vain at its end",
    "reply": "the first 1+1",
}

#: Waits until a kernel has answered.
Ready = Callable[[AsyncKernelClient], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """A kernel that has answered ``1+1``; ``start`` is how long that took, see ``_PARTS``."""

    manager: AsyncKernelManager
    client: AsyncKernelClient
    start: Figures

    def steps_ms(self) -> Figures:
        """How long each step took in its shim when it started last; of a local kernel nothing."""
        sandbox = getattr(self.manager.provisioner, "_sandbox", None)
        if not sandbox:
            return {}
        log = (find_paths().sandboxes / sandbox / "shim.log").read_text()
        return find_steps(log[log.rindex(_FIRST_STEP) :])


class Laps:
    """Seconds from mark to mark, and in ``all``."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self.found = {"all": 0.0}

    def mark(self, name: str) -> None:
        """The end of a part."""
        now_s = time.perf_counter()
        self.found[name] = now_s - self._last_s
        self.found["all"] += self.found[name]
        self._last_s = now_s


async def wait_ready(client: AsyncKernelClient) -> None:
    """As nearly every program waits: nbclient, papermill, jupyter console."""
    await client.wait_for_ready(timeout=_TIMEOUT_S)


async def wait_kernel_info(client: AsyncKernelClient) -> None:
    """As :func:`wait_ready`, without waiting for what does not come."""
    await _reply(client, client.kernel_info())


@asynccontextmanager
async def open_kernel(name: str, folder: Path, ready: Ready = wait_ready) -> AsyncIterator[Session]:
    """A kernel, from its start to its end."""
    manager = AsyncKernelManager(kernel_name=name)
    laps = Laps()
    try:
        await manager.start_kernel(cwd=str(folder), stderr=DEVNULL)  # ipykernel warns that it uses TCP
        laps.mark("launch")
        client = manager.client()
        client.start_channels()
        try:
            await _get_answers(client, ready, laps)
            yield Session(manager, client, laps.found)
        finally:
            client.stop_channels()
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


async def run(client: AsyncKernelClient, code: str) -> float:
    """Run a cell, and wait for its reply and all it prints; seconds."""
    began_s = time.perf_counter()
    reply = await client.execute_interactive(
        code, store_history=False, timeout=_TIMEOUT_S, output_hook=lambda message: None
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return time.perf_counter() - began_s


async def start(setting: Setting) -> list[Row]:
    """From the start to the first reply of ``1+1``, from the pool."""

    async def measure(name: str, ready: Ready) -> Figures:
        await wait_settled()
        return await _start(name, setting, ready)

    waited, bare = ({name: f"{name} {how}" for name in (LOCAL, HYPER)} for how in ("waited", "bare"))
    works = {
        side: functools.partial(measure, name, ready)
        for sides, ready in ((waited, wait_ready), (bare, wait_kernel_info))
        for name, side in sides.items()
    }
    with open_home(setting.data):
        Client().keep_parked(1)
        found = await in_turn(setting.runs, works)
    return [
        *_rows(found, waited, "start to the first reply of 1+1, from the pool", Aim(0.35, is_ratio=True)),
        *_rows(found, bare, "the same, with a bare kernel_info in place of wait_for_ready")[:1],
    ]


async def on_demand(setting: Setting) -> list[Row]:
    """As :func:`start`, with nothing parked: a clone is made when it is asked for."""
    with open_home(setting.data):
        found = await _start_anew(setting, renew_daemon_with_template)
    return _rows(found, SIDES, "start to the first reply of 1+1, with an empty pool", Aim(1.3, is_ratio=True))


async def cold(setting: Setting) -> list[Row]:
    """As :func:`start`, with no template: a machine boots."""
    with open_home(setting.data, templates=False):
        found = await _start_anew(setting, renew_daemon)
    return _rows(found, SIDES, "start to the first reply of 1+1, without a template")


async def restart(setting: Setting) -> list[Row]:
    """A restart with the client connected, to the first reply."""
    with open_home(setting.data):
        async with open_kernel(LOCAL, setting.folder) as local, open_kernel(HYPER, setting.folder) as hyper:
            works = {LOCAL: functools.partial(_restart, local), HYPER: functools.partial(_restart, hyper)}
            found = await in_turn(setting.runs, works)
    return _rows(found, SIDES, "restart to the first reply of 1+1", Aim(1, is_ratio=True))


def _rows(found: Found, sides: Mapping[str, str], what: str, aim: Aim | None = None) -> list[Row]:
    """The figure, its parts on both sides, and the steps in the shim."""
    local, hyper = sides[LOCAL], sides[HYPER]
    rows = [Row(what=what, unit="s", local=found.values(local, "all"), hyper=found.values(hyper, "all"), aim=aim)]
    for name, text in _PARTS.items():
        sides_s = [values if any(values := found.values(side, name)) else () for side in (local, hyper)]
        if any(sides_s):
            rows.append(Row(what=text, unit="s", local=sides_s[0], hyper=sides_s[1], is_detail=True))
    steps = [name for name in found.names(hyper) if name not in ("all", *_PARTS)]
    return rows + step_rows({name: found.values(hyper, name) for name in steps})


async def _start_anew(setting: Setting, renew: Callable[[], Awaitable[None]]) -> Found:
    """Starts with a new hyperd each: no start before it has asked for clones."""

    async def measure(name: str) -> Figures:
        if name == HYPER:
            await renew()
        else:
            stop_daemon(find_paths())
        return await _start(name, setting, wait_ready)

    return await in_turn(setting.runs, {name: functools.partial(measure, name) for name in (LOCAL, HYPER)})


async def _start(name: str, setting: Setting, ready: Ready) -> Figures:
    async with open_kernel(name, setting.folder, ready) as session:
        return _with_steps(session, session.start)


async def _restart(session: Session) -> Figures:
    await wait_settled()
    laps = Laps()
    await session.manager.restart_kernel(now=True)
    laps.mark("launch")
    await _get_answers(session.client, wait_ready, laps)
    return _with_steps(session, laps.found)


def _with_steps(session: Session, laps_s: Figures) -> Figures:
    steps_ms = session.steps_ms()
    around_s = laps_s["launch"] - sum_steps_ms(steps_ms) / 1000
    return {**laps_s, "around": around_s if steps_ms else 0.0, **steps_ms}


async def _get_answers(client: AsyncKernelClient, ready: Ready, laps: Laps) -> None:
    with _waits_in_vain(client) as waits:
        await ready(client)
    laps.mark("ready")
    laps.found["vain"] = sum(waits)
    await _reply(client, client.execute("1+1", store_history=False))
    laps.mark("reply")


async def _reply(client: AsyncKernelClient, request: str) -> None:
    while True:
        reply = await client.get_shell_msg(timeout=_TIMEOUT_S)
        if reply["parent_header"].get("msg_id") == request:
            assert reply["content"]["status"] == "ok", reply["content"]
            return


@contextmanager
def _waits_in_vain(client: AsyncKernelClient) -> Iterator[list[float]]:
    """The seconds of each wait for a message on IOPub that did not come.

    ``wait_for_ready`` ends with one of 0.2 s, whatever the kernel does (its loop "Flush IOPub channel").
    """
    waits: list[float] = []
    channel = client.iopub_channel
    get_msg = channel.get_msg

    async def timed(timeout: float | None = None) -> dict[str, Any]:
        began_s = time.perf_counter()
        try:
            return await get_msg(timeout=timeout)
        except Empty:
            waits.append(time.perf_counter() - began_s)
            raise

    channel.get_msg = timed
    try:
        yield waits
    finally:
        del channel.get_msg
