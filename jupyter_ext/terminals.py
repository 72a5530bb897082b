"""Terminals: shells inside sandboxes, each with any number of viewers."""

import asyncio
import codecs
import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from hyper_kernel.client import Client, Exec
from hyper_kernel.errors import BusyError, HyperError, NotFoundError
from jupyter_ext.hyperd import Hyperd, in_thread

_MAX_TERMINALS = 64
_MAX_VIEWERS = 16
#: What one who comes later is shown of what was before, in characters.
_KEPT = 256 * 1024
#: In the notebook's folder where there is one; the best shell that the image has.
_SHELL = 'cd /work 2>/dev/null; shell=$(command -v bash || echo /bin/sh); exec "$shell" -i'
_ENV = ("TERM=xterm-256color",)
_SIZE = (24, 80)


class Viewer(Protocol):
    """Who looks at a terminal."""

    #: Rows and columns, once it has said so.
    size: tuple[int, int] | None

    def show(self, text: str) -> None:
        """Show text; must not block, and must not hold without bound."""

    def end(self) -> None:
        """The shell has ended."""


class Terminal:
    """One shell.

    :param name: under which the server has it.
    :param sandbox: its sandbox's id.
    :param client: whose calls block.
    :param running: the shell.
    :param on_end: called once the shell has ended.
    """

    def __init__(self, name: str, sandbox: str, client: Client, running: Exec, on_end: Callable[[], None]) -> None:
        self.name = name
        self.sandbox = sandbox
        self.last_activity = datetime.now(UTC)
        self._client = client
        self._exec = running
        self._on_end = on_end
        self._viewers: list[Viewer] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = ""
        self._size = _SIZE
        self._writing = asyncio.Lock()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name=f"terminal {name}", daemon=True).start()

    def add(self, viewer: Viewer) -> None:
        """Show it to one more, from what is kept on.

        :raise BusyError: too many look at it.
        """
        if len(self._viewers) >= _MAX_VIEWERS:
            raise BusyError(f"{_MAX_VIEWERS} look at terminal {self.name} already", hint="close one of its tabs")
        self._viewers.append(viewer)
        if self._kept:
            viewer.show(self._kept)

    async def remove(self, viewer: Viewer) -> None:
        """Show it to one less; the shell stays."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            await self.resize()

    async def type(self, text: str) -> None:
        """Take what a viewer types."""
        self.last_activity = datetime.now(UTC)
        async with self._writing:
            with contextlib.suppress(OSError):  # it has ended; viewers are told so by who reads
                await in_thread(self._exec.stream.send, text.encode())

    async def resize(self) -> None:
        """Fit it to the smallest viewer."""
        sizes = [viewer.size for viewer in self._viewers if viewer.size]
        if not sizes:
            return
        size = min(rows for rows, _ in sizes), min(columns for _, columns in sizes)
        if size != self._size:
            self._size = size
            with contextlib.suppress(HyperError):  # it has ended
                await in_thread(self._client.resize_exec, self._exec.id, *size)

    async def close(self) -> None:
        """End the shell; returns when its stream is closed."""
        await in_thread(self._exec.stream.close)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry output to the loop, piece by piece: a shell that says much waits for it. Runs in a thread."""
        try:
            for _, data in self._exec.stream:
                asyncio.run_coroutine_threadsafe(self._show(data), loop).result()
        except (OSError, ValueError):
            pass  # it was closed while it was read
        except RuntimeError:
            return  # the loop has ended
        loop.call_soon_threadsafe(self._end)

    async def _show(self, data: bytes) -> None:
        # SECURITY: the text is the guest's. A terminal emulator in a browser shows it, and is not the host's terminal.
        text = self._decoder.decode(data)
        self.last_activity = datetime.now(UTC)
        self._kept = (self._kept + text)[-_KEPT:]
        for viewer in tuple(self._viewers):
            viewer.show(text)

    def _end(self) -> None:
        viewers, self._viewers = self._viewers, []
        for viewer in viewers:
            viewer.end()
        self._on_end()


class Terminals:
    """All terminals of the server, by name."""

    def __init__(self, hyperd: Hyperd) -> None:
        self._hyperd = hyperd
        self._by_name: dict[str, Terminal] = {}
        self._last = 0

    def list(self) -> list[Terminal]:
        """Those whose shells run."""
        return list(self._by_name.values())

    def get(self, name: str) -> Terminal:
        """One of them.

        :raise NotFoundError: there is none of this name.
        """
        if name not in self._by_name:
            raise NotFoundError(f"there is no terminal {name}", hint="it ends with its shell, and with its sandbox")
        return self._by_name[name]

    async def open(self, ref: str) -> Terminal:
        """Start a shell in a sandbox.

        :raise HyperError: there is no such sandbox, it does not run, or it has no shell.
        """
        if len(self._by_name) >= _MAX_TERMINALS:
            raise BusyError(f"{_MAX_TERMINALS} terminals are open already", hint="close some")
        if not await self._hyperd.is_running():
            raise NotFoundError(f"there is no sandbox {ref}: hyperd does not run", hint="start one")
        client = self._hyperd.reader
        record = await self._hyperd.call(client.sandbox, ref)
        argv = ("/bin/sh", "-c", _SHELL)
        running = await self._hyperd.call(client.exec, record.id, argv, env=_ENV, tty=True, stdin=True, size=_SIZE)
        self._last += 1
        name = str(self._last)
        made = Terminal(name, record.id, client, running, lambda: self._forget(name))
        self._by_name[name] = made
        return made

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(each.close() for each in self.list()), return_exceptions=True)

    def _forget(self, name: str) -> None:
        self._by_name.pop(name, None)
