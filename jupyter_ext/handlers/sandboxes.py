"""Sandboxes: listed, looked at, acted on."""

from collections.abc import Awaitable, Callable
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from hyper_kernel.client import Client, Record
from hyper_kernel.errors import ConflictError, NotFoundError, RequestError
from jupyter_ext import models
from jupyter_ext.handlers.base import HyperHandler, answers
from jupyter_ext.kernels import Kernels
from jupyter_ext.models import Kernel
from jupyter_ext.watch import is_alive

#: How much of a log is shown, in bytes: its end.
_MAX_LOG = 1 << 20
_ACTIONS = ("interrupt", "restart", "stop", "kill", "remove")
_SIGINT = "INT"


class SandboxHandler(HyperHandler):
    """What the routes of sandboxes share."""

    async def records(self) -> list[Record]:
        """All sandboxes."""
        return await self.app.watch.look()

    async def find(self, ref: str) -> Record:
        """The sandbox of an id, its beginning, or a name.

        :raise NotFoundError: there is none.
        """
        if not await self.hyperd.is_running():
            raise NotFoundError(f"there is no sandbox {ref}: hyperd does not run", hint="start one")
        return await self.hyperd.call(self.hyperd.reader.sandbox, ref)

    def describe(self, record: Record, kernels: dict[str, Kernel]) -> dict[str, Any]:
        """A sandbox as rest-api.yml has it."""
        return models.sandbox(record, kernel=kernels.get(record.id), usage=self.app.watch.usage.get(record.id))


class SandboxesHandler(SandboxHandler):
    """``/sandboxes``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> list[dict[str, Any]]:
        """Those that live, and all kernels of this server; or all."""
        everything = bool(self.whole_number("all", 0, 0, 1))
        records = await self.records()
        kernels = await self.app.kernels.of(records)
        return [self.describe(each, kernels) for each in records if everything or is_alive(each) or each.id in kernels]


class OneHandler(SandboxHandler):
    """``/sandboxes/{id}``."""

    @authenticated
    @authorized
    @answers
    async def get(self, ref: str) -> dict[str, Any]:
        """One sandbox."""
        ident = (await self.find(ref)).id
        records = await self.records()
        kernels = await self.app.kernels.of(records)
        for record in records:
            if record.id == ident:
                return self.describe(record, kernels)
        raise NotFoundError(f"there is no sandbox {ref} any more")


class KernelsHandler(SandboxHandler):
    """``/kernels``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> dict[str, Any]:
        """This server's kernels."""
        records = await self.records()
        kernels = await self.app.kernels.of(records)
        return {kernels[each.id].id: self.describe(each, kernels) for each in records if each.id in kernels}


class LogsHandler(SandboxHandler):
    """``/sandboxes/{id}/logs``."""

    @authenticated
    @authorized
    @answers
    async def get(self, ref: str) -> dict[str, str]:
        """The end of what it has written."""
        tail = self.whole_number("tail", 200, 1, 10_000)
        ident = (await self.find(ref)).id
        data = await self.hyperd.call(read_log, self.hyperd.reader, ident, tail)
        return {"text": data.decode(errors="replace")}


class ActionsHandler(SandboxHandler):
    """``/sandboxes/{id}/actions``."""

    @authenticated
    @authorized
    @answers
    async def post(self, ref: str) -> None:
        """Do something to it."""
        action = self.body({"action"}).get("action")
        if action not in _ACTIONS:
            raise RequestError(f"action={action!r} is not known", hint=f"use one of {', '.join(_ACTIONS)}")
        record = await self.find(ref)
        kernel = (await self.app.kernels.of([record])).get(record.id)
        if kernel:
            await act_on_kernel(self.app.kernels, kernel.id, action)
        else:
            await self.hyperd.call(act_on_sandbox, self.hyperd.reader, record, action)


async def act_on_kernel(kernels: Kernels, ident: str, action: str) -> None:
    """Do something to a kernel of this server, so that its notebooks know of it."""
    actions: dict[str, Callable[[], Awaitable[None]]] = {
        "interrupt": lambda: kernels.interrupt(ident),
        "restart": lambda: kernels.restart(ident),
        "stop": lambda: kernels.end(ident),
        "kill": lambda: kernels.end(ident, now=True),
        "remove": lambda: kernels.end(ident, now=True),
    }
    await actions[action]()


def act_on_sandbox(client: Client, record: Record, action: str) -> None:
    """Do something to a program's sandbox, or to the kernel of somebody else; blocks."""
    ident, is_kernel = record.id, record.spec.kernel is not None
    if action == "interrupt":
        client.signal_kernel(ident, 2) if is_kernel else client.kill(ident, _SIGINT)
    elif action == "restart":
        if is_kernel:
            raise ConflictError(
                f"the kernel in {record.name} belongs to another program", hint="start it again from there"
            )
        client.restart(ident)
    elif action == "stop":
        client.stop(ident)
    elif action == "kill":
        client.kill(ident)
    else:
        client.remove(ident, force=True)


def read_log(client: Client, ident: str, tail: int) -> bytes:
    """The last lines that a sandbox's program has written, and of them the last MiB; blocks."""
    kept = bytearray()
    for _, piece in client.logs(ident, tail=str(tail)):
        kept += piece
        del kept[:-_MAX_LOG]
    return bytes(kept)
