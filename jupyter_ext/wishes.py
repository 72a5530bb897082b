"""Wishes for notebooks of this server: they go where their notebook goes, and reach a kernel that it has already."""

from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_events import EventLogger
from jupyter_server.services.contents.manager import ContentsManager
from jupyter_server.services.sessions.sessionmanager import ModelName
from jupyter_server.utils import to_os_path

from hyper_kernel.jupyter.wishes import WISHES, Wish, Wishing

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


class NotebookWishes:
    """Notes wishes by the notebooks' paths in this server.

    :param server: whose contents manager tells, by events, which notebooks are renamed and deleted.
    """

    def __init__(self, server: "ServerApp") -> None:
        self._kernels: Any = server.kernel_manager
        self._sessions: Any = server.session_manager
        assert server.event_logger is not None  # it is made before extensions are
        server.event_logger.add_listener(schema_id=ContentsManager.event_schema_id, listener=self._follow)

    async def put(self, path: str, name: str, wish: Wish) -> None:
        """Note what a notebook's next kernel shall have, be it a new one or the one that it has, started again."""
        # As the session manager will name the notebook to its kernel.
        WISHES.put(self._sessions.get_kernel_env(path, ModelName(name))["JPY_SESSION_NAME"], wish)
        for session in await ensure_async(self._sessions.list_sessions()):
            if session["path"] == path:
                provisioner = self._kernels.get_kernel(session["kernel"]["id"]).provisioner
                if isinstance(provisioner, Wishing):
                    provisioner.wish(wish)

    async def _follow(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        root = self._kernels.root_dir
        if data["action"] == "rename":
            WISHES.move(to_os_path(data["source_path"], root), to_os_path(data["path"], root))
        elif data["action"] == "delete":
            WISHES.move(to_os_path(data["path"], root), None)
