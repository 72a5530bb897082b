"""The server extension: its options, and its parts put together."""

from typing import TYPE_CHECKING, Any, cast

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float

from jupyter_ext.handlers.host import ImagesHandler, PolicyHandler, StatusHandler, TemplatesHandler
from jupyter_ext.handlers.sandboxes import ActionsHandler, KernelsHandler, LogsHandler, OneHandler, SandboxesHandler
from jupyter_ext.hyperd import Hyperd
from jupyter_ext.kernels import Kernels
from jupyter_ext.metrics import Metrics
from jupyter_ext.tell import Teller
from jupyter_ext.watch import Watch

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_API = "/hyper/api/v1"
_ID = r"([A-Za-z0-9][A-Za-z0-9_.-]*)"


class HyperKernelApp(ExtensionApp):
    """Hyper Kernel in a Jupyter server: ``c.HyperKernelApp.*`` in its configuration."""

    name = "jupyter_ext"
    load_other_extensions = True

    enabled = Bool(True, config=True, help="Whether the server has any of this. Off: no routes, no calls, no metrics.")
    sample_s = Float(2.0, config=True, help="How often sandboxes are measured while somebody looks, in seconds.")

    hyperd: Hyperd
    watch: Watch
    kernels: Kernels
    metrics: Metrics

    @property
    def server(self) -> "ServerApp":
        """The server it is part of."""
        assert self.serverapp is not None  # it is linked before anything of ours is called
        return self.serverapp

    def initialize_settings(self) -> None:
        """Called by the server while it starts: make the parts."""
        if not self.enabled:
            return
        self.hyperd = Hyperd()
        assert self.server.event_logger is not None  # it is made before extensions are
        teller = Teller(self.server.event_logger)
        self.watch = Watch(self.hyperd, teller.tell, sample_s=self.sample_s)
        self.kernels = Kernels(self.server)
        self.metrics = Metrics(self.watch, teller.deaths)
        self.metrics.register()

    def initialize_handlers(self) -> None:
        """Called by the server after that: add the routes."""
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
        ]
        self.handlers.extend(cast("list[tuple[Any, ...]]", routes))

    async def _start_jupyter_server_extension(self, serverapp: "ServerApp") -> None:
        """Called by the server once its loop runs."""
        if self.enabled:
            self.watch.start()

    async def stop_extension(self) -> None:
        """Called by the server when it ends in good order; its kernels were ended before."""
        if self.enabled:
            self.metrics.unregister()
            await self.watch.stop()
