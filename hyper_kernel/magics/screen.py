"""What a cell shows in its sandbox, shown here as if it had run here."""

import sys
from typing import Any

from hyper_kernel.magics.failure import CellError, sandbox_failure

#: A widget lives in its kernel; its view alone is an empty box here. The bundle has a text beside it.
_WIDGET = "application/vnd.jupyter.widget-view+json"


class Result:
    """The result of a cell: what its kernel said of it, since the thing itself is in the sandbox."""

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.data = data
        self.metadata = metadata

    def __repr__(self) -> str:
        return str(self.data.get("text/plain", "<a result in a sandbox>"))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Called by IPython to show it."""
        return self.data, self.metadata


class Screen:
    """Takes what one cell shows; see ``session.Shows``.

    :param shell: the IPython that runs here.
    :param sandbox: tells displays of different sandboxes apart.
    :param captures: whether standard output is kept in :attr:`text` in place of being shown.
    """

    def __init__(self, shell: Any, sandbox: str, *, captures: bool = False) -> None:
        self._shell = shell
        self._sandbox = sandbox
        self._captures = captures
        self._pieces: list[str] = []
        #: What the cell raised.
        self.failure: CellError | None = None

    @property
    def text(self) -> str:
        """Standard output, as far as it was kept."""
        return "".join(self._pieces)

    def __call__(self, kind: str, content: dict[str, Any]) -> None:
        """Show one thing; what no cell shows is passed over."""
        if kind == "stream":
            self._write(content.get("name"), str(content.get("text", "")))
        elif kind in ("display_data", "update_display_data"):
            self._display(content, update=kind == "update_display_data")
        elif kind == "execute_result":
            self._shell.displayhook(Result(*_bundle(content)))
        elif kind == "clear_output":
            self._shell.display_pub.clear_output(wait=bool(content.get("wait")))
        elif kind == "error":
            self.failure = sandbox_failure(content)

    def _write(self, name: Any, text: str) -> None:
        if self._captures and name != "stderr":
            self._pieces.append(text)
            return
        out = sys.stderr if name == "stderr" else sys.stdout
        out.write(text)
        out.flush()

    def _display(self, content: dict[str, Any], *, update: bool) -> None:
        data, metadata = _bundle(content)
        ident = (content.get("transient") or {}).get("display_id")
        # SECURITY: under a name of its own; else a guest could write over what other cells display.
        transient = {"display_id": f"hyper-{self._sandbox}-{ident}"} if ident else {}
        self._shell.display_pub.publish(data=data, metadata=metadata, transient=transient, update=update)


def _bundle(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    data = dict(content.get("data") or {})
    data.pop(_WIDGET, None)
    return data or {"text/plain": "(a widget, which stays in its sandbox)"}, dict(content.get("metadata") or {})
