"""Packages of this host's Debian: found, fetched and unpacked without privilege and without installing anything."""

import hashlib
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
    """One package as apt would install it.

    :param size: the archive's, in bytes.
    :param sha256: the archive's, from apt's signed lists.
    :param depends: names in its Pre-Depends and Depends, in order, the first of alternatives.
    """

    name: str
    version: str
    size: int
    sha256: str
    depends: tuple[str, ...]


class Apt:
    """What this host's apt knows, as an ordinary user may ask. Asking is slow: ask for many packages at once.

    :param folder: keeps fetched archives, and apt's lists where the host has none of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options: list[str] = []

    def find(self, names: Sequence[str]) -> list[Package]:
        """The packages that would be installed, in the order of ``names``.

        :raise HostError: apt does not know one of them.
        """
        found = self._show(names)
        if not self._options and not found.keys() >= set(names):
            self._update_own_lists()
            found = self._show(names)
        if missing := sorted(set(names) - found.keys()):
            raise HostError(f"apt knows no package {', '.join(missing)}", hint=_HINT)
        return [found[name] for name in names]

    def fetch(self, packages: Sequence[Package]) -> list[Path]:
        """The packages' archives, in the same order; those that are here already are not fetched again.

        :raise HostError: they cannot be had.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [f"{package.name}={package.version}" for package in packages if not self._find_archive(package)]
        if missing:
            run_command(["apt-get", *self._options, "--quiet", "download", *missing], cwd=self._folder, hint=_HINT)
        archives = []
        for package in packages:
            archive = self._find_archive(package)
            if archive is None:
                raise HostError(
                    f"apt-get download left no whole archive of {package.name} in {self._folder}", hint=_HINT
                )
            archives.append(archive)
        return archives

    def drop_others(self, archives: Sequence[Path]) -> None:
        """Remove fetched archives other than these."""
        for path in self._folder.glob("*.deb"):
            if path not in archives:
                path.unlink(missing_ok=True)

    def _find_archive(self, package: Package) -> Path | None:
        """A whole archive in the folder. apt names them NAME_VERSION_ARCHITECTURE.deb, an epoch's colon encoded."""
        for path in self._folder.glob(f"{package.name}_{package.version.replace(':', '%3a')}_*.deb"):
            # SECURITY: what guests boot is what Debian signed, whoever could write in this folder meanwhile.
            with path.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() == package.sha256:
                    return path
            path.unlink()
        return None

    def _show(self, names: Sequence[str]) -> dict[str, Package]:
        """Name to package, for those of ``names`` that apt knows."""
        try:
            text = run_command(["apt-cache", *self._options, "show", *names])
        except HostError:  # apt-cache fails when it knows none of them, or not all
            return {}
        found: dict[str, Package] = {}
        for package in filter(None, map(_read_package, text.strip().split("\n\n"))):
            found.setdefault(package.name, package)  # the newest comes first
        return found

    def _update_own_lists(self) -> None:
        """Lists of our own, as apt has none before its first update and that would need root."""
        lists = self._folder / "apt"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (lists / part).mkdir(parents=True, exist_ok=True)
        self._options = [f"--option=Dir::State={lists}/state", f"--option=Dir::Cache={lists}/cache"]
        run_command(["apt-get", *self._options, "--quiet", "update"], hint=_HINT)


def _read_package(stanza: str) -> Package | None:
    """A package from its stanza in apt's lists (deb-control(5)); None where no archive can be had.

    That is so for what is installed and in no list, or before apt's first update.
    """
    lines = (line.partition(": ") for line in stanza.splitlines() if not line.startswith(" "))
    fields = {key: value for key, _, value in lines}
    entries = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}".split(",")
    matches = (re.match(r"[a-z0-9][a-z0-9+.-]+", entry.strip()) for entry in entries)
    if "SHA256" not in fields:
        return None
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        size=int(fields["Size"]),
        sha256=fields["SHA256"],
        depends=tuple(match[0] for match in matches if match),
    )


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
