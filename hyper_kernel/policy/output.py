"""The output policy: what becomes of each message that a hostile kernel sends towards browsers and other front ends.

Running a cell marks its output trusted in JupyterLab, so active content would act with the person's cookies. Pure: no
I/O; the firewall of the channels asks it for each message.
"""

from dataclasses import dataclass, field
from typing import Any

from hyper_kernel.policy.comms import Comms
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.replies import SCREENS
from hyper_kernel.policy.tree import safe_tree

MODES = ("sanitize", "trusted")
_MAX_METADATA, _MAX_METADATA_TEXT = 32, 1000


@dataclass(frozen=True, slots=True)
class Screened:
    """What is left of a message."""

    #: None: the message is dropped whole.
    content: dict[str, Any] | None
    metadata: dict[str, Any]
    #: What was taken out, in words for people: ("1 script", "application/javascript").
    removed: tuple[str, ...] = ()
    #: The same as kinds and how often: {"script": 2}.
    counts: dict[str, int] = field(default_factory=dict)
    #: Whether the message's binary buffers may go along.
    keep_buffers: bool = True


class OutputPolicy:
    """The policy for one kernel. It remembers what the kernel's comms are, so many and no more."""

    def __init__(self, mode: str = "sanitize") -> None:
        if mode not in MODES:
            raise ValueError(f"no output policy is called {mode!r}; there are {', '.join(MODES)}")
        self._mode = mode
        self._comms = Comms()

    def screen(
        self,
        channel: str,
        msg_type: str,
        content: dict[str, Any],
        metadata: dict[str, Any],
    ) -> Screened:
        """Decide on one message from the kernel. It never raises, whatever the message holds.

        :param channel: "iopub", "shell", "control" or "stdin".
        :param content: an object of JSON, as is ``metadata``, which is the message's own; neither is changed.
        """
        if self._mode == "trusted":
            return Screened(content, metadata)
        removed = Removed()
        # Everything below works on a copy that is not too deep, and of which every string is one.
        content, metadata = safe_tree(content), safe_tree(metadata)
        is_comm = channel == "iopub" and msg_type in ("comm_open", "comm_msg", "comm_close")
        if is_comm:
            kept = self._comms.screen(msg_type, content, removed)
        elif screen := SCREENS.get(channel, {}).get(msg_type):
            kept = screen(content, removed)
        else:
            removed.add(f"message of type {msg_type}")
            kept = None
        # SECURITY: binary data are for widgets alone, which say where they go.
        keep_buffers = is_comm and kept is not None
        return Screened(kept, _safe_metadata(metadata), removed.words(), removed.counts(), keep_buffers=keep_buffers)


def _safe_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Facts of a message, such as when a cell was started, which protocol widgets speak."""
    kept = {}
    for name, value in list(metadata.items())[:_MAX_METADATA]:
        if isinstance(value, str | int | float):
            kept[name] = value[:_MAX_METADATA_TEXT] if isinstance(value, str) else value
    return kept
