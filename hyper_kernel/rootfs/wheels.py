"""Pinned wheels as a tar archive that unpacks into an image's /usr/local."""

import importlib.util
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command

#: Wheels made for these run on every Debian that images are built from (glibc 2.36 and later).
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: Folders left out: suites of the libraries' own tests, 60 MB that no notebook reads.
_LEFT_OUT = frozenset({"tests", "__pycache__"})
_HINT = "check that pip reaches its package index: its configuration (pip config list), proxies, the network"


def pip_argv(requirements: Sequence[str], python: str, target: Path) -> list[str]:
    """The command that installs wheels for an image's Python, which need not be this one.

    :param python: ``3.11``.
    """
    return [
        sys.executable,
        *("-m", "pip", "install"),
        "--quiet",
        "--no-deps",  # the list is complete; what is not in it must not slip in
        "--no-compile",  # for the image's Python, in the image
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        f"--python-version={python}",
        *(f"--platform={platform}" for platform in PLATFORMS),
        f"--target={target}",
        *requirements,
    ]


def find_debian_python() -> str:
    """The version of Debian's Python (``3.11``): the image has the same, since it is built from the same suite.

    :raise HostError: there is none.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run_command(["/usr/bin/python3", "-I", "-c", code], hint="install python3").strip()


def pack_wheels(requirements: Sequence[str], python: str, output: Path, *, epoch: int) -> None:
    """Fetch wheels and write them as a tar archive for an image's root.

    :param epoch: the time of every file, in seconds since 1970.
    :raise HostError: pip failed; carries its last lines.
    """
    _check_pip()
    with tempfile.TemporaryDirectory(prefix="hyper-wheels-", dir=output.parent) as folder:
        target = Path(folder)
        run_command(pip_argv(requirements, python, target), hint=_HINT)
        _fix_scripts(target / "bin")
        with tarfile.open(output, "w") as archive:
            for path, name in _list_files(target, python):
                member = archive.gettarinfo(path, name)
                member.uid = member.gid = 0
                member.uname = member.gname = "root"
                member.mtime = epoch
                with path.open("rb") as file:
                    archive.addfile(member, file)


def place_of(path: Path, python: str) -> str:
    """Where a file of ``pip install --target`` belongs in the image."""
    if path.parts[0] in ("bin", "share", "etc"):
        return f"usr/local/{path}"
    return f"usr/local/lib/python{python}/dist-packages/{path}"


def _list_files(target: Path, python: str) -> Iterator[tuple[Path, str]]:
    for folder, folders, names in os.walk(target):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            yield path, place_of(path.relative_to(target), python)


def _fix_scripts(scripts: Path) -> None:
    """pip writes the Python that runs it in the first line of scripts; make that the image's."""
    for path in scripts.iterdir():
        first, _, rest = path.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            path.write_bytes(b"#!/usr/bin/python3\n" + rest)


def _check_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise HostError(f"{sys.executable} has no pip, which fetches wheels", hint=f"{sys.executable} -m ensurepip")
