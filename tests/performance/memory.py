"""What idle kernels hold of the host's memory, as Pss: pages that several share count once, over all who share them."""

import statistics
from contextlib import AsyncExitStack

import psutil

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.paths import Paths
from tests.performance.home import open_home, wait_settled
from tests.performance.kernels import HYPER, LOCAL, Session, open_kernel
from tests.performance.rounds import Setting
from tests.performance.table import Aim, Row
from tests.performance.watch import total_pss

#: Kernels at a time.
COUNT = 10
_MIB = 1 << 20


async def memory(setting: Setting) -> list[Row]:
    """Ten kernels on either side, each of which has answered ``1+1``; and ten clones that are parked."""
    with open_home(setting.data) as paths:
        alone, local = await _measure_local(setting)
        Client().keep_parked(COUNT)
        await wait_settled()
        parked = [_mib(*pids) for pids in _parked_pids(paths)]
        hyper = await _measure_hyper(setting, paths)
    return [
        Row(
            what=f"memory of an idle kernel, mean of {COUNT} (Pss)",
            unit="MiB",
            local=[statistics.mean(local)],
            hyper=[statistics.mean(sum(parts) for parts in hyper)],
            aim=Aim(1, is_ratio=True),
        ),
        *(
            Row(what=f"of which {who}", unit="MiB", hyper=[statistics.mean(values)], is_detail=True)
            for who, values in zip(("QEMU", "its shim"), zip(*hyper, strict=True), strict=True)
        ),
        Row(what="a local ipykernel that is the only one", unit="MiB", local=[alone], hyper=(), is_detail=True),
        Row(what=f"a parked clone, mean of {COUNT}", unit="MiB", hyper=[statistics.mean(parked)], is_detail=True),
    ]


async def _measure_local(setting: Setting) -> tuple[float, list[float]]:
    """One alone, and each of many."""
    async with AsyncExitStack() as stack:
        pids = [_local_pid(await stack.enter_async_context(open_kernel(LOCAL, setting.folder)))]
        alone = _mib(*pids)
        while len(pids) < COUNT:
            pids.append(_local_pid(await stack.enter_async_context(open_kernel(LOCAL, setting.folder))))
        return alone, [_mib(pid) for pid in pids]


async def _measure_hyper(setting: Setting, paths: Paths) -> list[tuple[float, float]]:
    """QEMU and shim of each."""
    async with AsyncExitStack() as stack:
        for _ in range(COUNT):
            await stack.enter_async_context(open_kernel(HYPER, setting.folder))
        records = Client().sandboxes()
        # Kernels live on without hyperd, clones that are parked do not: with those, pages would have more sharers.
        Client().keep_parked(0)
        stop_daemon(paths)
        return [(_mib(record.qemu_pid), _mib(record.shim_pid)) for record in records]


def _local_pid(session: Session) -> int:
    return session.manager.provisioner.pid


def _parked_pids(paths: Paths) -> list[list[int]]:
    """Each process that is to become a shim, for which a folder is named, and its QEMU."""
    shims = [psutil.Process(int(folder.name)) for folder in paths.parked.iterdir()]
    return [[shim.pid, *(child.pid for child in shim.children())] for shim in shims]


def _mib(*pids: int) -> float:
    return total_pss(pids) / _MIB
