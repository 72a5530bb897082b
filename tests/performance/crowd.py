"""Many sandboxes at once: run by one command, and ended by one."""

import asyncio
import contextlib
import resource
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from pathlib import Path

import psutil

from hyper_kernel.client import Client
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import DEFAULT_IMAGE
from tests.performance.home import open_home, renew_daemon, wait_settled
from tests.performance.rounds import Setting
from tests.performance.table import Aim, Row
from tests.performance.watch import DAEMON, QEMU, SHIMS, Watch, step_rows, total_pss

#: The aims hold for so many.
_AIMED = 100
_MIB = 1 << 20
_LEFT_S = 60.0


async def many(setting: Setting) -> list[Row]:
    """A short program in each of many sandboxes, started by one command that ends when all have ended."""
    with open_home(setting.data) as paths:
        await renew_daemon()
        busy_s, client_s = _machine_busy_s(), _children_s()
        async with Watch.open(paths) as watch:
            own_s = time.process_time()
            wall_s = await _time("run", "-n", str(setting.many), "--rm", DEFAULT_IMAGE, "python3", "-c", "print(1)")
            own_s = time.process_time() - own_s
        busy_s, client_s = _machine_busy_s() - busy_s, _children_s() - client_s
    rows = [
        Row(
            what=f"hyper run -n {setting.many} --rm … python3 -c 'print(1)'",
            unit="s",
            hyper=[wall_s],
            aim=_aim(setting, 20),
        ),
        Row(
            what="their memory at most, hyperd's included",
            unit="MiB",
            hyper=[watch.peak_bytes / _MIB],
            aim=_aim(setting, 8192),
        ),
        _detail("machines at a time at most", "", watch.peak_machines),
        *(_detail(f"processor time of {role}", "s", watch.cpu_s(role)) for role in (QEMU, SHIMS, DAEMON)),
        _detail("processor time of the command itself", "s", client_s),
        _detail("processor time of this watching", "s", own_s),
        _detail("processor time of the whole machine", "s", busy_s),
    ]
    return rows + step_rows(watch.steps_ms())


async def destroy(setting: Setting) -> list[Row]:
    """Many sandboxes that live: what they hold, and how they are ended by one command."""
    with open_home(setting.data) as paths:
        await renew_daemon()
        start_s = await _time("run", "-d", "-n", str(setting.many), DEFAULT_IMAGE, "sleep", "1000")
        records = Client().sandboxes()
        await wait_settled()
        memory = total_pss(_pids(records)) / _MIB
        began_s = time.perf_counter()
        command_s = await _time("rm", "-f", *(record.id for record in records))
        await _wait_nothing_left(records, paths)
        wall_s = time.perf_counter() - began_s
        help_s = await _time("--help")
    return [
        Row(what=f"hyper run -d -n {setting.many} … sleep 1000, until all run", unit="s", hyper=[start_s]),
        Row(what="their memory when all live", unit="MiB", hyper=[memory], aim=_aim(setting, 8192)),
        _detail("of one of them", "MiB", memory / len(records)),
        Row(what="hyper rm -f of all, until nothing is left", unit="s", hyper=[wall_s], aim=_aim(setting, 1)),
        _detail("until the command has returned", "s", command_s),
        _detail("any command takes so long to start (hyper --help)", "s", help_s),
    ]


async def _time(*arguments: str) -> float:
    """Run the command ``hyper``; seconds."""
    began_s = time.perf_counter()
    await _hyper(*arguments)
    return time.perf_counter() - began_s


async def _hyper(*arguments: str) -> None:
    """Run the command ``hyper``, and end it where this is interrupted.

    :raise RuntimeError: it failed; with its words.
    """
    argv = (str(Path(sys.executable).with_name("hyper")), *arguments)
    process = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    try:
        _, words = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"hyper {arguments[0]} exited with {process.returncode}: {words.decode()[-500:]}")


async def _wait_nothing_left(records: Sequence[Record], paths: Paths) -> None:
    """Wait until no process, socket or folder of sandboxes is left.

    :raise TimeoutError: something stays.
    """
    async with asyncio.timeout(_LEFT_S):
        while any(map(psutil.pid_exists, _pids(records))) or _folders(paths):
            await asyncio.sleep(0.01)  # many processes of another parent's, and folders, have no event for us


def _pids(records: Sequence[Record]) -> list[int]:
    return [pid for record in records for pid in (record.shim_pid, record.qemu_pid)]


def _folders(paths: Paths) -> list[Path]:
    return [*paths.sandboxes.iterdir(), *(paths.run / "s").iterdir()]


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _children_s() -> float:
    """Processor time of our own children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _aim(setting: Setting, most: float) -> Aim | None:
    return Aim(most) if setting.many == _AIMED else None


def _detail(what: str, unit: str, value: float) -> Row:
    return Row(what=what, unit=unit, hyper=[value], is_detail=True)
