"""The server extension: its options, and its parts put together."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets import Bool, Float
from traitlets.config import Config

from hyper_kernel.errors import HyperError
from hyper_kernel.paths import find_paths
from jupyter_ext.handlers.changes import ApplyHandler, ChangeHandler, ChangesHandler
from jupyter_ext.handlers.host import ImagesHandler, PolicyHandler, StatusHandler, TemplatesHandler
from jupyter_ext.handlers.sandboxes import ActionsHandler, KernelsHandler, LogsHandler, OneHandler, SandboxesHandler
from jupyter_ext.handlers.terminals import TerminalHandler, TerminalsHandler, TerminalSocket
from jupyter_ext.handlers.wishes import WishesHandler
from jupyter_ext.hyperd import Hyperd
from jupyter_ext.kernels import Kernels
from jupyter_ext.metrics import Metrics
from jupyter_ext.reattach import Reattach
from jupyter_ext.sessions import SessionFile
from jupyter_ext.tell import Teller
from jupyter_ext.terminals import Terminals
from jupyter_ext.watch import Watch
from jupyter_ext.websocket import HyperWebsocketConnection
from jupyter_ext.wishes import NotebookWishes

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_API = "/hyper/api/v1"
#: How long a server's start waits for kernels of an earlier one, in seconds; more of them are found later.
_REATTACH_S = 20.0
_ID = r"([A-Za-z0-9][A-Za-z0-9_.-]*)"
_NAME = "([0-9a-z]+)"


class HyperKernelApp(ExtensionApp):
    """Hyper Kernel in a Jupyter server: ``c.HyperKernelApp.*`` in its configuration."""

    name = "jupyter_ext"
    load_other_extensions = True

    enabled = Bool(True, config=True, help="Whether the server has any of this. Off: no routes, no calls, no metrics.")
    sample_s = Float(2.0, config=True, help="How often sandboxes are measured while somebody looks, in seconds.")
    reattach_kernels = Bool(
        True,
        config=True,
        help="Whether kernels outlive a server that is killed, and are found by the next of its folder.",
    )
    reattach_grace_s = Float(600.0, config=True, help="How long they wait for it, in seconds.")

    hyperd: Hyperd
    watch: Watch
    kernels: Kernels
    metrics: Metrics
    reattach: Reattach
    terminals: Terminals
    wishes: NotebookWishes
    _session_file: SessionFile | None = None
    _reattaching: asyncio.Task[None] | None = None

    @property
    def server(self) -> "ServerApp":
        """The server it is part of."""
        assert self.serverapp is not None  # it is linked before anything of ours is called
        return self.serverapp

    def _link_jupyter_server_extension(self, serverapp: "ServerApp") -> None:
        """Called by the server before it makes its managers: the last moment to configure them."""
        super()._link_jupyter_server_extension(serverapp)
        if not (self.enabled and self.reattach_kernels):
            return
        given, ours = serverapp.config, Config()
        if "owner_grace_s" not in given.get("HyperProvisioner", {}):
            ours.HyperProvisioner.owner_grace_s = self.reattach_grace_s
        if "database_filepath" not in given.get("SessionManager", {}):
            try:
                self._session_file = SessionFile(find_paths(), serverapp.root_dir)
                ours.SessionManager.database_filepath = str(self._session_file.path)
            except HyperError as exc:
                self.log.warning("notebooks will not find their kernels after a restart: %s", exc)
        serverapp.update_config(ours)

    def initialize_settings(self) -> None:
        """Called by the server while it starts: make the parts."""
        if not self.enabled:
            return
        self.hyperd = Hyperd()
        assert self.server.event_logger is not None  # it is made before extensions are
        teller = Teller(self.server.event_logger)
        self.watch = Watch(self.hyperd, teller.tell, sample_s=self.sample_s)
        self.kernels = Kernels(self.server)
        self.terminals = Terminals(self.hyperd)
        self.wishes = NotebookWishes(self.server)
        self.metrics = Metrics(self.watch, teller.deaths)
        self.metrics.register()
        known = self._session_file.kernel_ids() if self._session_file else set()
        self.reattach = Reattach(self.server, self.hyperd, known)
        if self.settings.get("kernel_websocket_connection_class") is ZMQChannelsWebsocketConnection:
            self.settings["kernel_websocket_connection_class"] = HyperWebsocketConnection

    def initialize_handlers(self) -> None:
        """Called by the server after that: add the routes, and find kernels."""
        if not self.enabled:
            return
        routes: list[tuple[str, Any]] = [
            (f"{_API}/status", StatusHandler),
            (f"{_API}/images", ImagesHandler),
            (f"{_API}/templates", TemplatesHandler),
            (f"{_API}/policy", PolicyHandler),
            (f"{_API}/kernels", KernelsHandler),
            (f"{_API}/sandboxes", SandboxesHandler),
            (f"{_API}/sandboxes/{_ID}", OneHandler),
            (f"{_API}/sandboxes/{_ID}/logs", LogsHandler),
            (f"{_API}/sandboxes/{_ID}/actions", ActionsHandler),
            (f"{_API}/sandboxes/{_ID}/changes", ChangesHandler),
            (f"{_API}/sandboxes/{_ID}/changes/(.+)", ChangeHandler),
            (f"{_API}/sandboxes/{_ID}/apply", ApplyHandler),
            (f"{_API}/wishes", WishesHandler),
            ("/hyper/api/terminals", TerminalsHandler),
            (f"/hyper/api/terminals/{_NAME}", TerminalHandler),
            (f"/hyper/terminals/websocket/{_NAME}", TerminalSocket),
        ]
        self.handlers.extend(cast("list[tuple[Any, ...]]", routes))
        if self.reattach_kernels:
            self._find_kernels()

    def _find_kernels(self) -> None:
        """Before the server listens, so that whoever asks for kernels and sessions finds them all there."""
        loop = self.server.io_loop
        if not loop.asyncio_loop.is_running():  # type: ignore[attr-defined]  # else it is inside another program
            loop.run_sync(self._reattach)

    async def _reattach(self) -> None:
        """Wait for kernels to be found, but not for ever: what takes longer goes on beside the server."""
        if self._reattaching is None:
            self._reattaching = asyncio.ensure_future(self.reattach.run())
        _, late = await asyncio.wait({self._reattaching}, timeout=_REATTACH_S)
        if late:
            self.log.warning("the server starts before all kernels of an earlier one are found")

    async def _start_jupyter_server_extension(self, serverapp: "ServerApp") -> None:
        """Called by the server once its loop runs."""
        if self.enabled:
            self.watch.start()
            if self.reattach_kernels:
                await self._reattach()

    async def stop_extension(self) -> None:
        """Called by the server when it ends in good order; its kernels were ended before."""
        if self.enabled:
            self.metrics.unregister()
            await self.terminals.close()
            if self._reattaching:
                self._reattaching.cancel()
            await self.reattach.stop()
            await self.watch.stop()
            if self._session_file:
                self._session_file.close()
