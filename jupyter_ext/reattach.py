"""Kernels that an earlier server of the same folder left behind, when it was killed: found, and taken over.

Their sandboxes outlive the server for a while (the provisioner's ``owner_grace_s``). This server makes a kernel manager
for each, as it was, so that notebooks find their kernels under the ids they know; and what a kernel said meanwhile goes
to the first front end that comes back.
"""

import asyncio
import contextlib
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_async
from jupyter_server._tz import utcnow
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

from hyper_kernel.client import Client, Record
from hyper_kernel.errors import ConflictError, HyperError
from jupyter_ext.hyperd import Hyperd
from jupyter_ext.kernels import KERNEL_ID

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

#: The label of a sandbox that holds the folder of the server that started its kernel; the provisioner sets it.
SERVER_ROOT = "hyper.server-root"
_KERNELSPEC = "hyper.kernelspec"
#: How long a kernel may take to say on its control channel what it is, and on its shell that it is idle, in seconds.
_INFO_S, _IDLE_S = 10.0, 1.0


class Reattach:
    """Takes kernels over.

    :param kernel_ids: those of sessions that are known.
    """

    def __init__(self, server: "ServerApp", hyperd: Hyperd, kernel_ids: set[str]) -> None:
        self._server = server
        self._log = server.log
        self._hyperd = hyperd
        self._kernel_ids = kernel_ids
        self._tasks: set[asyncio.Task[None]] = set()
        #: Sandboxes of kernels that were taken over and whose front end has not come back, by kernel id.
        self._unheard: dict[str, str] = {}

    async def run(self) -> None:
        """Take over all that there is; what cannot be is logged."""
        if not isinstance(self._server.kernel_manager, MappingKernelManager):
            return  # kernels are somebody else's, such as a gateway's
        try:
            client = await self._find_client()
            if client is None:
                return
            records = await self._hyperd.call(client.sandboxes, everything=True)
        except HyperError as exc:
            self._log.warning("kernels of an earlier server cannot be found: %s", exc)
            return
        mine: dict[str, Record] = {}
        for record in records:  # the newest first
            if self._is_mine(record):
                mine.setdefault(record.spec.labels[KERNEL_ID], record)
        await asyncio.gather(*(self._try_attach(record) for record in mine.values()))

    async def stop(self) -> None:
        """Let go of what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def claim(self, kernel_id: str) -> str:
        """The sandbox of a kernel of which nobody has heard what it said meanwhile; empty for others. Once."""
        return self._unheard.pop(kernel_id, "")

    def give_back(self, kernel_id: str, sandbox: str) -> None:
        """Who has claimed it has left before it heard anything."""
        self._unheard[kernel_id] = sandbox

    async def _find_client(self) -> Client | None:
        """Whom to ask; None where there is nothing to find: hyperd is not started for nothing."""
        if await self._hyperd.is_running():
            return self._hyperd.reader
        return self._hyperd.doer if self._has_left_records() else None

    def _has_left_records(self) -> bool:
        """Whether hyperd, which is gone, has records of kernels that sessions know: their shims may live."""
        for path in self._hyperd.paths.sandboxes.glob("*/record.json"):
            with contextlib.suppress(OSError):
                text = path.read_text()
                if any(ident in text for ident in self._kernel_ids):
                    return True
        return False

    def _is_mine(self, record: Record) -> bool:
        labels, manager = record.spec.labels, self._server.kernel_manager
        return (
            record.spec.kernel is not None
            and labels.get(SERVER_ROOT) == str(manager.root_dir)
            and bool(labels.get(KERNEL_ID))
            and labels[KERNEL_ID] not in manager
        )

    async def _try_attach(self, record: Record) -> None:
        name = f"kernel {record.spec.labels[KERNEL_ID]} in sandbox {record.name}"
        try:
            await self._attach(record)
        except ConflictError:
            self._log.debug("%s belongs to another server", name)
        except (HyperError, NoSuchKernel, AttributeError) as exc:
            self._log.warning("%s cannot be taken over: %s", name, exc)

    async def _attach(self, record: Record) -> None:
        """Take one over.

        :raise AttributeError: its kernelspec has another provisioner by now.
        """
        ident = record.spec.labels[KERNEL_ID]
        manager, provisioner = await self._make_manager(ident, record)
        assert record.spec.kernel is not None  # see _is_mine
        facts = await provisioner.take_over(record.id, record.spec.kernel.folder)
        is_dead = facts["state"] == "exited"
        if is_dead and (ident not in self._kernel_ids or not facts["connection"]):
            await provisioner.cleanup()  # no notebook asks for it any more
            return
        manager.load_connection_info(provisioner.connection_info)
        manager.write_connection_file()
        self._insert(ident, manager)
        if is_dead:
            self._log.warning("kernel %s has died while no server was there: %s", ident, facts["reason"])
            manager.execution_state, manager.reason = "dead", facts["reason"] or "the kernel has ended"
            manager.ready.set_result(None)
            return
        self._log.info("kernel %s is found again, in sandbox %s", ident, record.name)
        self._unheard[ident] = record.id
        await manager.post_start_kernel()
        self._settle_soon(ident, manager)

    def _settle_soon(self, ident: str, manager: Any) -> None:
        """Begin to settle; who shuts the kernel down meanwhile ends that first, as with a kernel that is starting."""
        kernels: Any = self._server.kernel_manager
        task = asyncio.create_task(self._settle(ident, manager))
        kernels._pending_kernel_tasks[ident] = kernels._pending_kernels[ident] = task
        self._tasks.add(task)

        def forget(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            for pending in (kernels._pending_kernel_tasks, kernels._pending_kernels):
                if pending.get(ident) is done:
                    del pending[ident]

        task.add_done_callback(forget)

    async def _make_manager(self, ident: str, record: Record) -> tuple[Any, Any]:
        """A kernel manager as for a start, with all that a restart needs, and its provisioner."""
        kernels: Any = self._server.kernel_manager
        session = await self._find_session(ident)
        spec_name = record.spec.labels.get(_KERNELSPEC) or None
        manager, _, _ = kernels.pre_start_kernel(spec_name, {"kernel_id": ident})
        env = dict(os.environ)
        if session.get("path"):
            env = self._server.session_manager.get_kernel_env(session["path"], session["name"])
        folder = record.spec.kernel.folder if record.spec.kernel else ""
        await manager.pre_start_kernel(kernel_id=ident, env=env, cwd=folder)
        return manager, manager.provisioner

    async def _find_session(self, ident: str) -> dict[str, Any]:
        """The row of the session that uses a kernel; the session manager itself drops those of unknown kernels."""
        rows = self._server.session_manager.cursor.execute("SELECT * FROM session WHERE kernel_id=?", (ident,))
        return dict(row) if (row := rows.fetchone()) else {}

    def _insert(self, ident: str, manager: Any) -> None:
        """What the multi-kernel manager does with one that it starts."""
        kernels: Any = self._server.kernel_manager
        manager._attempted_start = True
        manager.execution_state, manager.reason, manager.last_activity = "starting", "", utcnow()
        kernels._kernels[ident] = manager
        kernels._kernel_connections[ident] = 0
        kernels._kernel_ports[ident] = []
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=manager.kernel_name).inc()
        kernels.initialize_culler()

    async def _settle(self, ident: str, manager: Any) -> None:
        """Find out how the kernel is, without waiting for the cell that it may be running; websockets wait for this."""
        try:
            info = await _ask(manager, "control", _INFO_S)
        finally:
            manager.ready.set_result(None)
        if info:
            manager._kernel_info_future = Future()  # else the first websocket asks on the shell, behind that cell
            manager._kernel_info_future.set_result(info)
        await ensure_async(self._server.kernel_manager._finish_kernel_start(ident))
        is_idle = await _ask(manager, "shell", _IDLE_S)
        if manager.execution_state in ("starting", "idle"):
            manager.execution_state = "idle" if is_idle else "busy"


async def _ask(manager: Any, channel: str, timeout_s: float) -> dict[str, Any]:
    """What a kernel says on a channel that it is; empty where it does not answer in time."""
    stream = getattr(manager, f"connect_{channel}")()
    answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    def take(parts: list[bytes]) -> None:
        if not answer.done():
            answer.set_result(parts)

    stream.on_recv(take)
    session = manager.session.clone()
    try:
        session.send(stream, "kernel_info_request")
        async with asyncio.timeout(timeout_s):
            _, parts = session.feed_identities(await answer)
            content: dict[str, Any] = session.deserialize(parts)["content"]
            return content
    except (TimeoutError, ValueError):
        return {}
    finally:
        stream.close(linger=0)  # what nobody takes must not keep the process from ending
