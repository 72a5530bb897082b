"""How lively a sandbox is, as the host measures it: only when somebody asks, so that an idle one costs nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from hyper_kernel.errors import HyperError
from hyper_kernel.host.usage import read_wanted_s
from hyper_kernel.sandbox.record import Liveness

#: Whoever showed a sign of life so lately is not asked for another, in seconds.
_FRESH_S = 5.0
#: How long the agent may take to answer, in seconds.
_ANSWER_S = 3.0
#: How long the processor's use is watched, in seconds: the kernel counts that of some threads in ticks of 10 ms.
_WATCH_S = 0.1
#: From this part of what it may use on, a machine is busy; an emulated one that has nothing to do uses a fiftieth.
_BUSY = 0.3


class Pulse:
    """Measures one sandbox.

    SECURITY: what the guest says of itself counts for nothing here; that its agent answers does, not what.

    :param pid: of its hypervisor.
    :param ping: asks its agent for an answer.
    :param share: how much of a processor it may use, 1.0 where that is not limited to less.
    :param wanted_s: reads the processor time that a process had or waited for, in seconds.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        pid: int,
        ping: Callable[[], Awaitable[object]],
        *,
        share: float = 1.0,
        wanted_s: Callable[[int], float] = read_wanted_s,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = pid
        self._ping = ping
        self._share = share
        self._wanted_s = wanted_s
        self._clock = clock
        self._active_s = self._answered_s = clock()

    async def look(self, last_byte_s: float) -> tuple[Liveness, float]:
        """How it is, and for how many seconds it has done nothing, or not answered.

        :param last_byte_s: when something last came out of it, in monotonic seconds.
        """
        self._active_s = max(self._active_s, last_byte_s)
        sign_s = max(last_byte_s, self._answered_s)
        if self._clock() - sign_s > _FRESH_S and not await self._answers():
            return Liveness.HUNG, self._clock() - sign_s
        if await self._is_busy():
            self._active_s = self._clock()
            return Liveness.BUSY, 0.0
        return Liveness.IDLE, self._clock() - self._active_s

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._ping()
        except (HyperError, TimeoutError):
            return False
        self._answered_s = self._clock()
        return True

    async def _is_busy(self) -> bool:
        began_s, before_s = self._clock(), self._wanted_s(self._pid)
        await asyncio.sleep(_WATCH_S)  # a rate has no event
        wanted = (self._wanted_s(self._pid) - before_s) / (self._clock() - began_s)
        return wanted > _BUSY * min(self._share, 1.0)
