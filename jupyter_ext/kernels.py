"""The server's own kernels, as far as they run in sandboxes, and what can be done to them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async

from hyper_kernel.client import Record
from hyper_kernel.errors import ConflictError
from jupyter_ext.models import Kernel

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

#: The label of a sandbox that holds Jupyter's kernel id; the provisioner sets it.
KERNEL_ID = "hyper.kernel-id"


class Kernels:
    """Looks at and acts on what the server's kernel and session managers have."""

    def __init__(self, server: "ServerApp") -> None:
        self._kernels: Any = server.kernel_manager
        self._sessions: Any = server.session_manager

    async def of(self, records: Iterable[Record]) -> dict[str, Kernel]:
        """This server's kernels among the sandboxes, by sandbox id.

        :param records: the newest first: of two that ran the same kernel it counts alone.
        """
        sessions = {each["kernel"]["id"]: each for each in await ensure_async(self._sessions.list_sessions())}
        found: dict[str, Kernel] = {}
        seen: set[str] = set()
        for record in records:
            ident = record.spec.labels.get(KERNEL_ID, "")
            if record.spec.kernel and ident in self._kernels and ident not in seen:
                seen.add(ident)
                found[record.id] = self._describe(ident, sessions.get(ident, {}))
        return found

    async def interrupt(self, ident: str) -> None:
        """Interrupt a cell that runs."""
        try:
            await ensure_async(self._kernels.interrupt_kernel(ident))
        except RuntimeError as exc:  # it is starting
            raise ConflictError(f"kernel {ident}: {exc}", hint="try again in a moment") from exc

    async def restart(self, ident: str) -> None:
        """Start it again, in a fresh machine; returns when it runs."""
        try:
            await ensure_async(self._kernels.restart_kernel(ident))
        except RuntimeError as exc:
            raise ConflictError(f"kernel {ident}: {exc}", hint="try again in a moment") from exc

    async def end(self, ident: str, *, now: bool = False) -> None:
        """End it and the sessions that use it; the sandbox is removed.

        :param now: by force.
        """
        if now:
            await ensure_async(self._kernels.shutdown_kernel(ident, now=True))
            await ensure_async(self._sessions.list_sessions())  # drops those whose kernel is gone
            return
        used = [each for each in await ensure_async(self._sessions.list_sessions()) if each["kernel"]["id"] == ident]
        for session in used[:1]:
            await ensure_async(self._sessions.delete_session(session["id"]))
        if not used:
            await ensure_async(self._kernels.shutdown_kernel(ident))

    def _describe(self, ident: str, session: dict[str, Any]) -> Kernel:
        kernel = self._kernels.get_kernel(ident)
        return Kernel(
            id=ident,
            name=kernel.kernel_name,
            state=getattr(kernel, "execution_state", None) or "starting",
            path=session.get("path") or "",
            session=session.get("id", ""),
        )
