"""What people do with a review: compare it with the host's folder, read both sides, take changes over."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyper_kernel.errors import HyperError
from hyper_kernel.review.changes import FOLDER, Change, Kind, find_alike
from hyper_kernel.review.host_folder import HostFolder, Side, Standing, read_side
from hyper_kernel.review.kept import Review, open_content, read_base, write_base
from hyper_kernel.review.names import is_retired, shown

_NAMED_ONLY = "hidden, or made again by tools: applied only when it is named"
_LOOK_AGAIN = "it is not as it was when you looked at it: look again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A change, and how it stands to the host's folder now; ``alike`` is another path that it may be taken for."""

    change: Change
    standing: Standing
    alike: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As clients see it."""
        data, path, is_hidden = self.change.as_dict(), self.change.path, is_retired(self.change.path)
        looks = f"it looks like {shown(self.alike)}" if self.alike else ""
        return {name: data[name] for name in ("path", "kind", "is_folder", "size", "digest", "is_text")} | {
            "shown": shown(path),
            "conflict": self.standing.is_conflict,
            "hidden": is_hidden,
            "can_apply": not self.standing.reason or self.standing.is_conflict,
            "reason": "; ".join(filter(None, (self.standing.reason, looks, _NAMED_ONLY * is_hidden))),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A path that was not applied, and why."""

    path: str
    reason: str
    conflict: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A review of a sandbox on the one side, the host's folder on the other.

    :ivar sandbox: the sandbox's folder.
    :ivar folder: the host's, which was copied in.
    """

    sandbox: Path
    folder: str
    review: Review

    def compare(self) -> list[Found]:
        """All changes that the host's folder has not yet.

        :raise RequestError: the folder is gone.
        """
        alike = find_alike(self.review.changes, read_base(self.sandbox))
        with HostFolder.open(self.folder) as host:
            found = [(change, host.look(change)) for change in self.review.changes]
        return [
            Found(change=change, standing=standing, alike=alike.get(change.path, ""))
            for change, standing in found
            if not standing.is_done
        ]

    def find(self, path: str) -> Change | None:
        """The change of a path."""
        return next((change for change in self.review.changes if change.path == path), None)

    def read(self, change: Change) -> dict[str, Any]:
        """Both sides of a change: size, SHA-256, and text where it can be shown as such; None where there is no file.

        :raise RequestError: the folder is gone.
        :raise ConflictError: somebody looked at the sandbox again.
        """
        before: Side | None = None
        after: Side | None = None
        with HostFolder.open(self.folder) as host:
            standing = host.look(change)
            if not change.fault:
                before = host.read(change.path)
        if change.digest:
            with open_content(self.sandbox, change.digest) as file:
                after = read_side(file)
        found = Found(change=change, standing=standing).as_dict()
        return found | {"before": before and asdict(before), "after": after and asdict(after)}

    def apply(
        self, wanted: Mapping[str, str], *, force: bool = False, dry_run: bool = False
    ) -> tuple[list[str], list[Refused]]:
        """Take changes over, each for itself.

        :param wanted: paths, and the SHA-256 that each was seen with, or empty; a folder stands for all below it, and
            an empty path for everything.
        :param force: also what the host changed, too: its own changes are lost then.
        :param dry_run: only say what would be.
        :return: paths that were applied, and those that were not.
        :raise RequestError: the folder is gone.
        """
        chosen = {
            change.path: (change, name)
            for change in self.review.changes
            if (name := _named(change, wanted)) is not None
        }
        refused = [Refused(path=name, reason="nothing of that name was changed") for name in _unknown(wanted, chosen)]
        applied = []
        with HostFolder.open(self.folder) as host:
            for change, name in sorted(chosen.values(), key=lambda pair: _turn(pair[0])):
                standing = host.look(change)
                if standing.is_done:
                    continue
                if why := _refuse(change, standing, name, wanted[name], force=force):
                    refused.append(why)
                    continue
                try:
                    if not dry_run:
                        host.apply(change, self.sandbox, force=force)
                except HyperError as exc:
                    refused.append(Refused(path=change.path, reason=str(exc)))
                else:
                    applied.append(change)
        if applied and not dry_run:
            write_base(self.sandbox, _changed_base(read_base(self.sandbox), applied))
        return [change.path for change in applied], refused


def _named(change: Change, wanted: Mapping[str, str]) -> str | None:
    """What of that which is wanted a change belongs to: the longest; None where nothing."""
    path = change.path
    while path and path not in wanted:
        path = path.rpartition("/")[0]
    return path if path in wanted else None


def _unknown(wanted: Mapping[str, str], chosen: Mapping[str, tuple[Change, str]]) -> list[str]:
    known = {name for _, name in chosen.values()} | {""}
    return [name for name in wanted if name not in known]


def _turn(change: Change) -> tuple[int, int, str]:
    """When a change's turn is: deletions first, from below; then what is added, from above."""
    depth, is_deleted = change.path.count("/"), change.kind is Kind.DELETED
    return (0, -2 * depth + change.is_folder, change.path) if is_deleted else (1, depth, change.path)


def _refuse(change: Change, standing: Standing, name: str, digest: str, *, force: bool) -> Refused | None:
    """Why a change is not applied; None where it is."""
    if is_retired(change.path, name):
        return Refused(path=change.path, reason=_NAMED_ONLY, hidden=True)
    if digest and name == change.path and digest != change.digest:
        return Refused(path=change.path, reason=_LOOK_AGAIN)
    if standing.reason and not (force and standing.is_conflict):
        return Refused(path=change.path, reason=standing.reason, conflict=standing.is_conflict)
    return None


def _changed_base(base: dict[str, str], applied: list[Change]) -> dict[str, str]:
    """What the sandbox's files are compared with, now that the host has some of its changes."""
    for change in applied:
        if change.kind is Kind.DELETED:
            base.pop(change.path, None)
        else:
            base[change.path] = FOLDER if change.is_folder else change.digest
    return base
