"""Calls for what a sandbox changed in its copy of a folder of this machine."""

from collections.abc import Iterable, Mapping
from typing import Any

from hyper_kernel.client.calls import Calls
from hyper_kernel.client.http import quote_part

#: A guest may have much to hand over, and slowly; hyperd itself has the deadline.
_LOOK_S = 660.0


class ReviewCalls(Calls):
    """What :class:`Client` offers for reviews. Each change is a dictionary:

    ``path`` below the folder and ``shown``, the same with escapes for what could deceive; ``kind``: ``added``,
    ``changed`` or ``deleted``; ``is_folder``, ``size``, ``digest`` (SHA-256) and ``is_text`` of the sandbox's file;
    ``conflict``: this machine changed it, too; ``hidden``: applied only when it is named; ``can_apply``: whether it
    ever can be applied, by force where it is a conflict; ``reason``: what is to be said of all that, or empty.
    """

    def review(self, ref: str, *, last: bool = False) -> dict[str, Any]:
        """Look at what a sandbox changed: ``taken_s``, ``notes`` and ``changes``, without what this machine has, too.

        :param last: as it was last looked at, by whomever; where nobody has, now.
        """
        path = f"/hyper/v1/sandboxes/{quote_part(ref)}/changes"
        return self._json("GET", path, {"last": int(last)}, timeout_s=_LOOK_S)

    def changes(self, ref: str) -> list[dict[str, Any]]:
        """The changes of :meth:`review`."""
        changes: list[dict[str, Any]] = self.review(ref)["changes"]
        return changes

    def change(self, ref: str, path: str) -> dict[str, Any]:
        """One change as it was last looked at, and its ``before`` (this machine's file) and ``after`` (the sandbox's).

        Each is None where there is no file, or ``size``, ``digest`` and ``text`` (None where it is none, or is long).
        """
        where = f"/hyper/v1/sandboxes/{quote_part(ref)}/changes/content"
        return self._json("GET", where, {"path": path}, timeout_s=_LOOK_S)

    def apply(
        self,
        ref: str,
        paths: Iterable[str] | Mapping[str, str] = (),
        *,
        everything: bool = False,
        force: bool = False,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Make changes in this machine's folder, as they were last looked at, each for itself.

        :param paths: which; a folder stands for all below it. A mapping also says which ``digest`` each was seen with:
            what is another by now is refused.
        :param everything: all that need not be named.
        :param force: also where this machine changed the same: that is lost then.
        :param dry_run: only say what would be.
        :return: ``taken_s``; ``applied``: paths; ``refused``: ``path``, ``reason``, ``conflict``, ``hidden`` each.
        """
        wanted = dict(paths) if isinstance(paths, Mapping) else list(paths)
        body = {"paths": wanted, "all": everything, "force": force, "dry_run": dry_run}
        return self._json("POST", f"/hyper/v1/sandboxes/{quote_part(ref)}/apply", body=body, timeout_s=_LOOK_S)

    def layer_changes(self, ref: str) -> list[dict[str, Any]]:
        """As ``GET /containers/{id}/changes`` of Docker's API: what a running sandbox has not as its image."""
        changes: list[dict[str, Any]] = self._value("GET", f"/containers/{quote_part(ref)}/changes", timeout_s=_LOOK_S)
        return changes
