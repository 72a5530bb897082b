"""hyperd's handle of a process that parks a clone or bakes a template: it is asked, it answers, it is let go of."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Self

from hyper_kernel.host.orders import open_orders, receive_order, send_order
from hyper_kernel.host.process import watch_exit
from hyper_kernel.shim.nursery import Nursery

log = logging.getLogger(__name__)

#: How long a process may take to end that was let go of, in seconds.
_END_S = 5.0


class Worker:
    """Such a process; it ends itself when it is let go of, unless it was claimed.

    :param pid: its id.
    :param orders: our end of the pair that it answers on.
    """

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._orders = orders

    def __repr__(self) -> str:
        return f"<Worker {self.pid}>"

    @classmethod
    async def start(cls, nursery: Nursery, order: dict[str, Any]) -> Self:
        """Have an order done.

        :raise InternalError: no process could be started.
        """
        ours, theirs = open_orders()
        ours.setblocking(False)
        with theirs:
            try:
                return cls(await nursery.fork(order, theirs.fileno()), ours)
            except BaseException:
                ours.close()
                raise

    async def answer(self, deadline_s: float) -> dict[str, Any]:
        """What it says next, or ``{"failed": reason}`` where that is nothing."""
        try:
            async with asyncio.timeout(deadline_s):
                answer, _ = await receive_order(self._orders)
        except EOFError:
            answer = {"failed": "its process was killed"}
        except TimeoutError:
            answer = {"failed": f"it took more than {deadline_s:g} s"}
        return answer

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have a function called as soon as it is of no use any more: it has nothing left to say but that it ends."""
        loop = asyncio.get_running_loop()

        def told() -> None:
            loop.remove_reader(self._orders)
            on_end()

        loop.add_reader(self._orders, told)

    def claim(self, sandbox: str, listener: socket.socket) -> None:
        """Have a parked clone become the shim of a sandbox, controlled by a bound socket.

        :raise OSError: it is gone.
        """
        send_order(self._orders, {"id": sandbox}, listener.fileno())

    def close(self) -> None:
        """Let go of it. Again: nothing happens."""
        if self._orders.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._orders)
        self._orders.close()

    async def wait_end(self) -> None:
        """Wait until it has ended, and what it held is free again; one that does not is left behind."""
        try:
            async with asyncio.timeout(_END_S):
                with contextlib.suppress(ProcessLookupError):
                    await watch_exit(self.pid).wait()
        except TimeoutError:
            log.warning("%s does not end", self)
