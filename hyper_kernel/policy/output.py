"""The output policy: what becomes of each message that a hostile kernel sends towards browsers and other front ends.

Running a cell marks its output trusted in JupyterLab, so active content would act with the person's cookies. Pure: no
I/O; the firewall of the channels asks it for each message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyper_kernel.policy import html
from hyper_kernel.policy.removed import Removed

MODES = ("sanitize", "trusted")


@dataclass(frozen=True, slots=True)
class Screened:
    """What is left of a message."""

    #: None: the message is dropped whole.
    content: dict[str, Any] | None
    metadata: dict[str, Any]
    #: What was taken out, in words for people: ("1 script", "application/javascript").
    removed: tuple[str, ...] = ()
    #: Whether the message's binary buffers may go along.
    keep_buffers: bool = True


class OutputPolicy:
    """The policy for one kernel. It remembers the kernel's open comms, so many and no more."""

    def __init__(self, mode: str = "sanitize") -> None:
        if mode not in MODES:
            raise ValueError(f"no output policy is called {mode!r}; there are {', '.join(MODES)}")
        self._mode = mode

    def screen(
        self,
        channel: str,
        msg_type: str,
        content: dict[str, Any],
        metadata: dict[str, Any],
        buffer_sizes: Sequence[int] = (),
    ) -> Screened:
        """Decide on one message from the kernel. It never raises, whatever the message holds.

        :param channel: "iopub", "shell", "control" or "stdin".
        :param buffer_sizes: of the message's binary buffers, in bytes.
        """
        if self._mode == "trusted":
            return Screened(content, metadata)
        data = content.get("data")
        if channel != "iopub" or not isinstance(data, dict) or msg_type.startswith("comm"):
            return Screened(content, metadata)
        removed = Removed()
        kept = {}
        for name, value in data.items():
            if name in ("text/html", "image/svg+xml") and isinstance(value, str):
                kept[name] = html.safe_html(value, removed) if name == "text/html" else html.safe_svg(value, removed)
            elif "javascript" in name or "ecmascript" in name:
                removed.add(name)
            else:
                kept[name] = value
        return Screened({**content, "data": kept}, metadata, removed.words())
