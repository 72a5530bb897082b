"""mmdebstrap: a Debian root file system as a tar archive, from the archives this host's apt already uses."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command

_TARGETS = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
#: apt's settings that decide whether an archive can be reached and is believed; the rest of the host's is its own.
_APT_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
)
#: What mmdebstrap says when a part of its work begins, and how we call it.
_PHASES = {
    "running apt-get update": "reading Debian's package lists",
    "downloading packages": "downloading packages",
    "extracting archives": "unpacking packages",
    "installing essential": "installing the essential packages",
    "installing remaining": "installing the other packages",
    "tar-in": "adding wheels",
    "compileall": "compiling Python files",
    "creating tarball": "packing the layer",
}
_HINT = "check that apt works here: apt-get update, or behind a proxy set Acquire::http::Proxy in apt's configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What to bootstrap.

    :param suite: Debian's code name.
    :param archives: lines of a sources.list.
    :param apt_options: lines of an apt.conf.
    :param packages: besides the essential ones and apt.
    :param excludes: paths (globs) that no package brings.
    :param hooks: shell commands run in order when all packages are in; ``$1`` is the root file system.
    :param output: the tar archive.
    """

    suite: str
    archives: tuple[str, ...]
    apt_options: tuple[str, ...]
    packages: tuple[str, ...]
    excludes: tuple[str, ...]
    hooks: tuple[str, ...]
    output: Path


def argv(config: Bootstrap) -> list[str]:
    """The command line for a bootstrap."""
    options = [f"--aptopt={option}" for option in config.apt_options]
    options += [f"--dpkgopt=path-exclude={path}" for path in config.excludes]
    options += [f"--customize-hook={hook}" for hook in config.hooks]
    if any(line.split()[1].startswith(("file:", "copy:")) for line in config.archives):
        options.append("--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount")
    return [
        "mmdebstrap",
        "--mode=unshare",  # for root too: its mounts and processes go with it, even when it is killed
        "--variant=apt",
        "--format=tar",
        f"--include={','.join(config.packages)}",
        *options,
        config.suite,
        str(config.output),
        *config.archives,
    ]


def run_bootstrap(config: Bootstrap, *, report: Callable[[str], None], scratch: Path, epoch: int) -> None:
    """Make the archive; works for root and, with subordinate ids, for an ordinary user.

    :param report: told what is going on.
    :param scratch: a folder for what is in the making; other users must be able to pass through it.
    :param epoch: no file is younger than this time, in seconds since 1970.
    :raise HostError: it failed; carries the last lines.
    """

    def on_line(line: str) -> None:
        for sign, words in _PHASES.items():
            if line.startswith("I: ") and sign in line:
                report(words)

    environment = {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": str(scratch)}
    run_command(argv(config), env=environment, hint=_HINT, on_line=on_line)


def read_suite(os_release: Path = Path("/etc/os-release")) -> str:
    """The code name of this host's Debian.

    :raise HostError: this is no Debian.
    """
    lines = os_release.read_text().splitlines() if os_release.exists() else []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    if facts.get("ID", "").strip('"') != "debian" or "VERSION_CODENAME" not in facts:
        raise HostError(
            "images are built from Debian's packages, and this host is not a released Debian",
            hint="set up on Debian 12 or later",
        )
    return facts["VERSION_CODENAME"].strip('"')


def find_archives(suite: str) -> tuple[str, ...]:
    """Debian's own archives for a suite among those this host's apt is set up with, as lines of a sources.list.

    :raise HostError: there is none.
    """
    lines = choose_archives(_list_targets(), suite)
    if not lines:  # apt lists nothing before its first update; make one of our own, which needs no root
        with tempfile.TemporaryDirectory(prefix="hyper-apt-") as lists:
            private = [f"--option=Dir::State={lists}", f"--option=Dir::Cache={lists}"]
            run_command(["apt-get", *private, "--quiet", "update"], hint=_HINT)
            lines = choose_archives(_list_targets(private), suite)
    if not lines:
        raise HostError(
            f"apt has no source of Debian's packages for {suite}",
            hint="add Debian's archive to /etc/apt/sources.list.d and run apt-get update",
        )
    return lines


def _list_targets(options: Sequence[str] = ()) -> str:
    return run_command(["apt-get", *options, "indextargets", "--format", _TARGETS, "Created-By: Packages"])


def choose_archives(listing: str, suite: str) -> tuple[str, ...]:
    """The lines for Debian's own archives in apt's list of index targets.

    Third parties are left out: they name other suites or components, or an origin of their own.
    """
    suites = {suite, f"{suite}-updates", f"{suite}-security"}
    lines: dict[str, None] = {}
    for target in listing.splitlines():
        uri, release, component, origin = target.split("|")
        if release in suites and component == "main" and origin == "Debian":
            lines[f"deb {uri} {release} {component}"] = None
    return tuple(lines)


def find_apt_options() -> tuple[str, ...]:
    """This host's apt settings that an archive may not be reachable without (proxy, dates)."""
    dump = run_command(["apt-config", "dump", "--format", '%f "%v";%n', *_APT_SETTINGS])
    return tuple(line.removesuffix(";") for line in dump.splitlines() if '""' not in line)


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a list with one per line and comments after ``#``."""
    entries: Sequence[str] = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    return tuple(entry for entry in entries if entry)
