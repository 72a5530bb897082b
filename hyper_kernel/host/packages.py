"""Which Debian packages this host needs and lacks; ``packages.txt`` is the list."""

from collections.abc import Iterable, Mapping
from importlib.resources import files

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command


def read_packages() -> dict[str, str]:
    """The packages this host needs, and why, by name."""
    needed = {}
    for line in files("hyper_kernel.host").joinpath("packages.txt").read_text().splitlines():
        name, _, why = line.partition("#")
        if name.strip():
            needed[name.strip()] = why.strip()
    return needed


def find_missing() -> dict[str, str]:
    """The needed packages that are not installed, and why they are needed, by name.

    :raise HostError: dpkg cannot be asked: this is not a Debian.
    """
    listing = run_command(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n"],
        hint="Hyper Kernel is set up on Debian 12 or later",
    )
    return choose_missing(read_packages(), listing.splitlines())


def choose_missing(needed: Mapping[str, str], listing: Iterable[str]) -> dict[str, str]:
    """The needed packages that dpkg's list (``NAME STATUS`` lines) does not show as installed."""
    installed = {line.split()[0] for line in listing if line.endswith(" installed")}
    return {name: why for name, why in needed.items() if name not in installed}


def check_packages() -> None:
    """Refuse to go on where a needed package is missing.

    :raise HostError: names each, and the command that installs them.
    """
    if missing := find_missing():
        lines = "\n".join(f"  {name:16} {why}" for name, why in missing.items())
        raise HostError(
            f"Debian packages are missing:\n{lines}",
            hint=f"as root: apt-get install --no-install-recommends {' '.join(missing)}",
        )
