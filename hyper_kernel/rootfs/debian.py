"""Packages of this host's Debian: found, fetched and unpacked without privilege and without installing anything."""

import re
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command

_HINT = "check that apt works here: apt-get update, or behind a proxy set Acquire::http::Proxy in apt's configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package as apt would install it; ``size`` is the archive's, in bytes."""

    name: str
    version: str
    size: int


class Apt:
    """What this host's apt knows, as an ordinary user may ask.

    :param folder: keeps fetched archives, and apt's lists where the host has none of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options: list[str] = []

    def find(self, name: str) -> Package:
        """The package that would be installed.

        :raise HostError: there is none of that name.
        """
        fields = self._show(name)
        if not fields and not self._options:
            self._update_own_lists()
            fields = self._show(name)
        if not fields:
            raise HostError(f"apt knows no package {name}", hint=_HINT)
        return Package(name=name, version=fields["Version"], size=int(fields["Size"]))

    def depends(self, name: str) -> list[str]:
        """The names in a package's Depends and Pre-Depends, in order, the first of alternatives.

        :raise HostError: there is no such package.
        """
        self.find(name)
        fields = self._show(name)
        entries = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
        return [match[0] for entry in entries.split(",") if (match := re.match(r"[a-z0-9][a-z0-9+.-]+", entry.strip()))]

    def fetch(self, package: Package) -> Path:
        """The package's archive, fetched unless it is here already; apt checks it against the signed lists.

        :raise HostError: it cannot be had.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        target = f"{package.name}={package.version}"
        run_command(["apt-get", *self._options, "--quiet", "download", target], cwd=self._folder, hint=_HINT)
        # apt writes NAME_VERSION_ARCHITECTURE.deb and encodes the colon of an epoch.
        stem = f"{package.name}_{package.version.replace(':', '%3a')}_"
        found = sorted(self._folder.glob(f"{stem}*.deb"))
        if not found:
            raise HostError(f"apt-get download {target} left no archive in {self._folder}", hint=_HINT)
        return found[0]

    def _show(self, name: str) -> dict[str, str]:
        """The fields of a package's newest candidate; empty where apt does not know it."""
        try:
            text = run_command(["apt-cache", *self._options, "show", "--no-all-versions", name])
        except HostError:
            return {}
        lines = (line.partition(": ") for line in text.splitlines() if not line.startswith(" "))
        return {key: value for key, _, value in lines if value}

    def _update_own_lists(self) -> None:
        """Lists of our own, as apt has none before its first update and that would need root."""
        lists = self._folder / "apt"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (lists / part).mkdir(parents=True, exist_ok=True)
        self._options = [f"--option=Dir::State={lists}/state", f"--option=Dir::Cache={lists}/cache"]
        run_command(["apt-get", *self._options, "--quiet", "update"], hint=_HINT)


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool] = lambda _path: True) -> None:
    """Unpack a package's files; its scripts are not run.

    :param wanted: says by its path (without a leading ``./``) whether a file is unpacked.
    :raise HostError: the archive is damaged or the disk is full.
    """
    argv: Sequence[str] = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as members:
                for member in members:
                    if not member.isdir() and wanted(member.name.removeprefix("./")):
                        members.extract(member, folder, set_attrs=not member.issym())
        except (tarfile.TarError, OSError) as exc:
            process.kill()
            raise HostError(
                f"cannot unpack {archive}: {exc}", hint=f"make room on that disk, or remove {archive} and try again"
            ) from exc
