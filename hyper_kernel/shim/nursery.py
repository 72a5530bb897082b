"""A warm parent that forks shims: what a shim imports is loaded once, and shims outlive hyperd.

hyperd sends it an order, ``{"do": "run" | "park" | "bake", ...}`` with one descriptor, and gets ``{"pid": ...}`` of the
process that does it; see ``__main__``. ``template`` in an order is the key of a template to have at hand: the warm
parent holds its memory, so that all it forks share it.
"""

import asyncio
import logging
import socket
import subprocess
import sys
from typing import Any

from hyper_kernel.errors import InternalError
from hyper_kernel.host.orders import open_orders, receive_order, send_order

log = logging.getLogger(__name__)

_FORK_S = 20.0


class Nursery:
    """hyperd's handle of the warm parent; starts it anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Start the warm parent; it warms up while its first order waits in the socket."""
        self._orders, theirs = open_orders()
        self._orders.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - nothing here waits for it
                [sys.executable, "-m", "hyper_kernel.shim", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    async def fork(self, order: dict[str, Any], fd: int) -> int:
        """Have an order done by a new process; its pid.

        :param fd: the process gets a copy.
        :raise InternalError: the warm parent fails twice.
        """
        async with self._busy:
            for _ in range(2):
                try:
                    async with asyncio.timeout(_FORK_S):
                        return await self._ask(order, fd)
                except (OSError, EOFError, ValueError, TimeoutError) as exc:
                    log.warning("the warm parent failed (%r); starting another", exc)
                    await self.close()
            raise InternalError("no shim could be started", hint="see: hyper daemon logs")

    async def close(self) -> None:
        """End the warm parent; what it forked lives on."""
        if self._orders:
            self._orders.close()
            self._orders = None
        if self._process:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def _ask(self, order: dict[str, Any], fd: int) -> int:
        if self._orders is None:
            await self.start()
        assert self._orders
        send_order(self._orders, order, fd)
        answer, _ = await receive_order(self._orders)
        return int(answer["pid"])
