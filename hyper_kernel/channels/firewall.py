"""What may pass between a kernel and its clients, message by message."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hyper_kernel.channels.cells import Asker, Cells
from hyper_kernel.channels.message import Judge, Judged
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.packet import read_header, read_json, write_json
from hyper_kernel.channels.signing import Buffer
from hyper_kernel.policy.output import OutputPolicy

log = logging.getLogger(__name__)

#: What each message counts beside its length: receivers need at least so much to hold it.
MESSAGE_COST = 1024
#: Short messages that pass when a cell has shown all that it may: without them front ends would wait for ever.
_ALWAYS = frozenset({"status", "execute_input", "error", "shutdown_reply", "iopub_welcome"})
_MAX_ALWAYS = 64 * 1024
#: Kinds of removed things that are counted apart.
_MAX_KINDS = 100


class Firewall:
    """Judges the messages of one kernel; all its connections share it.

    :param policy: what a front end may be shown.
    :param cells: told what is asked and answered.
    :param on_over: called when a cell has shown all that it may; what follows is dropped.
    """

    def __init__(self, policy: OutputPolicy, cells: Cells, on_over: Callable[[], None]) -> None:
        self._policy = policy
        self._cells = cells
        self._on_over = on_over
        #: What was removed so far, by its name.
        self.removed: Counter[str] = Counter()

    def from_kernel(self, channel: str, meter: Meter) -> Judge:
        """A judge of what the kernel says on one connection.

        :param meter: counts what comes there.
        """

        def judge(parts: Sequence[Buffer]) -> Judged | None:
            header, parent = read_header(parts[0]), read_header(parts[1])
            kind = str(header.get("msg_type"))
            meter.add(MESSAGE_COST)
            if channel == "iopub" and not self._may_show(meter, kind, sum(map(len, parts))):
                self._count("output over its limit")
                return None
            # SECURITY: what goes on is what was read here, written anew: no receiver can read it in another way.
            content, metadata = read_json(parts[3]), read_json(parts[2])
            screened = self._policy.screen(channel, kind, content, metadata)
            for what in screened.removed:
                self._count(what)
            self._note_end(channel, kind, content, parent)
            if screened.content is None:
                return None
            new = [write_json(part) for part in (header, parent, screened.metadata, screened.content)]
            return Judged(new, with_buffers=screened.keep_buffers)

        return judge

    def from_client(self, channel: str, asker: Asker) -> Judge:
        """A judge of what a client says on one connection: all of it passes, and cells are noted."""

        def judge(parts: Sequence[Buffer]) -> Judged:
            if channel == "shell":
                header = read_header(parts[0])
                if header.get("msg_type") == "execute_request":
                    self._cells.ask(header, asker)
            return Judged(parts)

        return judge

    def _may_show(self, meter: Meter, kind: str, size: int) -> bool:
        if self._cells.charge(meter.shown):
            self._on_over()
        return not self._cells.over_output or (kind in _ALWAYS and size <= _MAX_ALWAYS)

    def _note_end(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        is_idle = channel == "iopub" and kind == "status" and content.get("execution_state") == "idle"
        if is_idle or (channel == "shell" and kind == "execute_reply"):
            self._cells.end(parent.get("msg_id"))

    def _count(self, what: str) -> None:
        # SECURITY: the guest chooses some of these names.
        if what in self.removed or len(self.removed) < _MAX_KINDS:
            self.removed[what[:100]] += 1
