"""Terminals in sandboxes, in the protocol of jupyter_server_terminals: JupyterLab's terminal speaks it."""

import asyncio
import contextlib
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.web import authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from hyper_kernel.errors import HyperError, RequestError
from jupyter_ext import models
from jupyter_ext.handlers.base import HyperHandler, answers, as_http
from jupyter_ext.terminals import Terminal

if TYPE_CHECKING:
    from jupyter_ext.app import HyperKernelApp

#: What waits for a browser that does not read, in characters; more of it is skipped.
_MAX_WAITING = 1 << 20
_SKIPPED = "\r\n[some output was skipped]\r\n"
#: No terminal is larger, in rows and in columns.
_MAX_SIZE = 10_000


class TerminalsHandler(HyperHandler):
    """``/terminals``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> list[dict[str, Any]]:
        """All terminals."""
        return [_describe(each) for each in self.app.terminals.list()]

    @authenticated
    @authorized
    @answers
    async def post(self) -> dict[str, Any]:
        """Open one."""
        ref = self.body().get("sandbox")
        if not isinstance(ref, str) or not ref:
            raise RequestError("the body names no sandbox", hint='send {"sandbox": id or name}')
        return _describe(await self.app.terminals.open(ref))


class TerminalHandler(HyperHandler):
    """``/terminals/{name}``."""

    @authenticated
    @authorized
    @answers
    async def get(self, name: str) -> dict[str, Any]:
        """One terminal."""
        return _describe(self.app.terminals.get(name))

    @authenticated
    @authorized
    @answers
    async def delete(self, name: str) -> None:
        """End it."""
        await self.app.terminals.get(name).close()


class TerminalSocket(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """A viewer: one browser's tab."""

    auth_resource = "hyper"
    size: tuple[int, int] | None = None
    _terminal: Terminal | None = None

    def initialize(self) -> None:
        """Called by tornado for each request."""
        self._waiting: deque[str] = deque()
        self._waiting_size = 0
        self._has_more = asyncio.Event()
        self._has_ended = False
        self._sending: asyncio.Task[None] | None = None

    def set_default_headers(self) -> None:
        """Those of pages make no sense here; as in jupyter_server."""

    @ws_authenticated
    @authorized("execute")  # type: ignore[untyped-decorator]  # it has no type where it is given an action
    async def get(self, name: str) -> None:  # type: ignore[override]
        """Become a websocket."""
        app: HyperKernelApp = self.settings["jupyter_ext"]
        try:
            self._terminal = app.terminals.get(name)
        except HyperError as exc:
            raise as_http(exc) from exc
        await super().get(name)

    async def open(self, name: str) -> None:
        """Called once it is one."""
        super().open(name)
        assert self._terminal  # get() has found it
        self._sending = asyncio.ensure_future(self._send())
        try:
            self._terminal.add(self)
        except HyperError as exc:
            self.close(1013, str(exc)[:100])

    async def on_message(self, message: str | bytes) -> None:
        """Called with what the browser sends; the next comes when this has been taken."""
        if self._terminal is None:
            return
        match _parse(message):
            case ["stdin", str(text)]:
                await self._terminal.type(text)
            case ["set_size", int(rows), int(columns), *_] if 0 < rows <= _MAX_SIZE and 0 < columns <= _MAX_SIZE:
                self.size = rows, columns
                await self._terminal.resize()

    def on_close(self) -> None:
        """Called when the browser has left."""
        if self._sending:
            self._sending.cancel()
        if self._terminal:
            self._leaving = asyncio.ensure_future(self._terminal.remove(self))

    def show(self, text: str) -> None:
        """Show text; what the browser does not take in time is skipped."""
        self._waiting.append(text)
        self._waiting_size += len(text)
        if self._waiting_size > _MAX_WAITING:
            self._waiting = deque([_SKIPPED, text[-_MAX_WAITING:]])
            self._waiting_size = sum(map(len, self._waiting))
        self._has_more.set()

    def end(self) -> None:
        """The shell has ended: say so, and close."""
        self._has_ended = True
        self._has_more.set()

    async def _send(self) -> None:
        """Send what waits, as fast as the browser takes it."""
        with contextlib.suppress(WebSocketClosedError):
            await self.write_message(json.dumps(["setup", {}]))
            while not self._has_ended or self._waiting:
                self._has_more.clear()
                text, self._waiting_size = "".join(self._waiting), 0
                self._waiting.clear()
                if text:
                    await self.write_message(json.dumps(["stdout", text]))
                elif not self._has_ended:
                    await self._has_more.wait()
            await self.write_message(json.dumps(["disconnect", 1]))
            self.close()


def _parse(message: str | bytes) -> list[Any]:
    """A message of the browser's; empty where it is none."""
    try:
        data = json.loads(message)
    except ValueError:
        return []
    return data if isinstance(data, list) else []


def _describe(terminal: Terminal) -> dict[str, Any]:
    return models.terminal(terminal.name, terminal.sandbox, terminal.last_activity)
