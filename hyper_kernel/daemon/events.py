"""What happens to sandboxes, told to whoever listens, in the shape of Docker's events."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

#: How many past events ``since`` can reach back to.
KEPT = 1000


class Events:
    """A bus with a short memory."""

    def __init__(self) -> None:
        self._past: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    def publish(self, action: str, ident: str, attributes: dict[str, str], *, kind: str = "container") -> None:
        """Tell that ``action`` happened to a thing of this kind."""
        now = time.time_ns()
        event: dict[str, Any] = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": ident, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind == "container":  # the fields of API versions before 1.22, which docker-py and others still read
            event |= {"status": action, "id": ident, "from": attributes.get("image", "")}
        self._past.append(event)
        for queue in self._listeners:
            if queue.full():  # SECURITY: a listener that never reads loses its oldest events, not hyperd's memory
                queue.get_nowait()
            queue.put_nowait(event)

    async def listen(self, *, since_s: float | None, until_s: float | None) -> AsyncIterator[dict[str, Any]]:
        """Past events from ``since_s`` on (None: none), then new ones until ``until_s`` (None: without end)."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(KEPT)
        past = [] if since_s is None else [event for event in self._past if event["timeNano"] >= since_s * 1e9]
        self._listeners.add(queue)
        try:
            for event in past:
                if until_s is None or event["timeNano"] <= until_s * 1e9:
                    yield event
            async with asyncio.timeout(None if until_s is None else until_s - time.time()):
                while True:
                    yield await queue.get()
        except TimeoutError:
            return
        finally:
            self._listeners.discard(queue)
