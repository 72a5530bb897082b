"""What may pass between a kernel and its clients, message by message."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyper_kernel.channels.asked import MAX_PROMPTS, Asked
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
#: What the host itself asks of a kernel begins so (``sandbox/identity.py``), of which a kernel tells all who listen.
_HOSTS = "hyper_"
#: Kinds of removed things that are counted apart.
_MAX_KINDS = 100
_MAX_COUNTED = 1000


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
        self._asked = {channel: Asked() for channel in ("shell", "control", "stdin")}
        #: Messages of which something was removed; each connection has a copy of what the kernel publishes.
        self._counted: deque[object] = deque(maxlen=_MAX_COUNTED)
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
            if channel == "iopub" and str(parent.get("msg_type")).startswith(_HOSTS):
                return None  # nobody's request but ours: a kernel that was just started is "starting" to its clients
            if not self._may_pass(channel, kind, parent.get("msg_id"), meter, sum(map(len, parts))):
                self._count(header, {"message over the limit of output" if channel == "iopub" else "answer unasked": 1})
                return None
            # SECURITY: what goes on is what was read here, written anew: no receiver can read it in another way.
            content, metadata = read_json(parts[3]), read_json(parts[2])
            screened = self._policy.screen(channel, kind, content, metadata)
            self._count(header, screened.counts)
            self._note_end(channel, kind, content, parent)
            if screened.content is None:
                return None
            new = [write_json(part) for part in (header, parent, screened.metadata, screened.content)]
            return Judged(new, with_buffers=screened.keep_buffers)

        return judge

    def from_client(self, channel: str, asker: Asker) -> Judge:
        """A judge of what a client says on one connection: all of it passes, and cells are noted."""

        def judge(parts: Sequence[Buffer]) -> Judged:
            header = read_header(parts[0])
            msg_id, kind = header.get("msg_id"), str(header.get("msg_type"))
            if kind.endswith("_request"):
                self._asked[channel].ask(msg_id)
            if channel == "shell" and kind == "execute_request":
                self._asked["stdin"].ask(msg_id, MAX_PROMPTS)
                self._cells.ask(header, asker)
            return Judged(parts)

        return judge

    def _may_pass(self, channel: str, kind: str, asked: object, meter: Meter, size: int) -> bool:
        # SECURITY: clients hold what they have not read yet: so much of a cell's output, and one answer to a request.
        if channel != "iopub":
            return self._asked[channel].take(asked)
        if self._cells.charge(meter.shown):
            self._on_over()
        return not self._cells.over_output or (kind in _ALWAYS and size <= _MAX_ALWAYS)

    def _note_end(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        is_idle = channel == "iopub" and kind == "status" and content.get("execution_state") == "idle"
        if is_idle or (channel == "shell" and kind == "execute_reply"):
            self._cells.end(parent.get("msg_id"))

    def _count(self, header: dict[str, Any], removed: Mapping[str, int]) -> None:
        if not removed or header.get("msg_id") in self._counted:
            return
        self._counted.append(header.get("msg_id"))
        for what, count in removed.items():
            # SECURITY: the guest chooses some of these names.
            if what in self.removed or len(self.removed) < _MAX_KINDS:
                self.removed[what[:100]] += count
