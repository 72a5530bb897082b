"""A Jupyter server with the extension, inside the test's process."""

import contextlib
import json
import socket
from types import SimpleNamespace

from jupyter_server.serverapp import ServerApp
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.websocket import websocket_connect
from traitlets.config import Config

TOKEN = "t0ken"


class Served:
    """A server that answers at a port of this host."""

    def __init__(self, app, http, port):
        self.app, self._http, self.port = app, http, port
        self._client = AsyncHTTPClient(force_instance=True)

    @property
    def extension(self):
        return self.app.web_app.settings["jupyter_ext"]

    async def ask(self, method, path, body=None, *, token=TOKEN, headers=None):
        """Status and JSON (or text) of an answer."""
        data = json.dumps(body) if body is not None else ("" if method in ("POST", "PUT") else None)
        headers = {"Authorization": f"token {token}"} | (headers or {}) if token else headers or {}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = HTTPRequest(url, method, headers, data, request_timeout=60, follow_redirects=False)
        answer = await self._client.fetch(request, raise_error=False)
        text = answer.body.decode()
        return SimpleNamespace(status=answer.code, text=text, json=_parse(text), headers=answer.headers)

    async def get(self, path):
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.text
        return answer.json if answer.json is not None else answer.text

    async def connect(self, path, *, token=TOKEN, **options):
        """A websocket."""
        headers = {"Authorization": f"token {token}"} if token else {}
        return await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{self.port}{path}", headers=headers), **options)

    async def end(self):
        """End it in good order; its kernels end too."""
        self._http.stop()
        for ident in self.app.kernel_manager.list_kernel_ids():  # a fake kernel heeds nothing softer
            await self.app.kernel_manager.shutdown_kernel(ident, now=True)
        await self.app._cleanup()

    async def kill(self):
        """Go away as a process does that is killed: kernels are left as they are."""
        self._http.stop()
        kernels = self.app.kernel_manager
        for ident in list(kernels.list_kernel_ids()):
            kernels.get_kernel(ident).stop_restarter()
            kernels.stop_watching_activity(ident)
            kernels.get_kernel(ident)._close_control_socket()
        if self.extension.enabled:
            await self.extension.stop_extension()
        self.app.session_manager.close()


def _parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


async def start(root, **sections):
    """A server of a folder; ``sections`` are of its configuration: ``HyperKernelApp={"enabled": False}``."""
    ServerApp.clear_instance()
    config = Config({name: Config(values) for name, values in sections.items()})
    config.ServerApp.jpserver_extensions = {"jupyter_ext": True}
    config.IdentityProvider.token = TOKEN
    app = ServerApp.instance(config=config, root_dir=str(root), log_level=50, allow_root=True, open_browser=False)
    app.init_signal = lambda: None
    app.initialize(argv=[], find_extensions=False, new_httpserver=False)
    await app._post_start()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    http = HTTPServer(app.web_app)
    http.add_socket(sock)
    return Served(app, http, sock.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(root, **sections):
    """A server that ends with the context."""
    served = await start(root, **sections)
    try:
        yield served
    finally:
        await served.end()
