"""A warm parent that forks shims: what a shim imports is loaded once, and shims outlive hyperd.

hyperd talks to it over a socketpair, a JSON object per line: ``{"id": sandbox}`` is answered by ``{"pid": shim}``.
"""

import asyncio
import json
import logging
import socket
import subprocess
import sys

from hyper_kernel.errors import InternalError

log = logging.getLogger(__name__)

_FORK_S = 20.0


class Nursery:
    """hyperd's handle of the warm parent; starts it anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Start the warm parent; it warms up while its first request waits in the socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - nothing here waits for it
                [sys.executable, "-m", "hyper_kernel.shim", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._streams = await asyncio.open_unix_connection(sock=ours)

    async def fork(self, sandbox_id: str) -> int:
        """Start the shim of a recorded sandbox; its pid.

        :raise InternalError: the warm parent fails twice.
        """
        async with self._busy:
            for _ in range(2):
                try:
                    async with asyncio.timeout(_FORK_S):
                        return await self._ask(sandbox_id)
                except (OSError, ValueError, TimeoutError) as exc:
                    log.warning("the warm parent failed (%s); starting another", exc)
                    await self.close()
            raise InternalError("no shim could be started", hint="see: hyper daemon logs")

    async def close(self) -> None:
        """End the warm parent; shims live on."""
        if self._streams:
            self._streams[1].close()
            self._streams = None
        if self._process:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def _ask(self, sandbox_id: str) -> int:
        if self._streams is None:
            await self.start()
        assert self._streams
        reader, writer = self._streams
        writer.write(json.dumps({"id": sandbox_id}).encode() + b"\n")
        await writer.drain()
        return int(json.loads(await reader.readline())["pid"])
