"""``hyper cp``: files into a sandbox and out of it."""

import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from hyper_kernel.cli.arguments import complete_live
from hyper_kernel.client import Client
from hyper_kernel.errors import NotFoundError, RequestError
from hyper_kernel.host.tar import extract
from hyper_kernel.sandbox.words import printable

_GO_DIR = 1 << 31
#: An archive larger than this waits on disk, not in memory, while it is sent.
_SPOOL = 32 << 20
_READ = 256 * 1024
_Path = Annotated[str, typer.Argument(show_default=False, autocompletion=complete_live)]


def cp(source: _Path, target: _Path) -> None:
    """Copy a file or folder between this machine and a running sandbox: one of the two is NAME:PATH.

    "-" is a tar archive on standard input or output. Out of a sandbox come files and folders; links and all else are
    left out, since nothing in a sandbox is trusted.
    """
    theirs_from, theirs_to = split_reference(source), split_reference(target)
    if bool(theirs_from) == bool(theirs_to):
        raise RequestError("one of the two must be in a sandbox, and one not", hint="write it as NAME:/path")
    if theirs_from:
        _copy_out(Client(), *theirs_from, target)
    elif theirs_to:
        _copy_in(Client(), source, *theirs_to)


def split_reference(text: str) -> tuple[str, str] | None:
    """The sandbox and the path in ``NAME:PATH``; None for a path of this machine (which may begin with ./)."""
    name, colon, path = text.partition(":")
    if not colon or not name or "/" in name or name.startswith("."):
        return None
    return name, path or "/"


def _copy_out(client: Client, sandbox: str, path: str, target: str) -> None:
    facts = client.stat_path(sandbox, path)
    if facts and facts["linkTarget"]:
        link = printable(facts["linkTarget"])
        raise RequestError(f"{path} in {sandbox} is a link to {link}", hint="copy what it leads to")
    with client.get_archive(sandbox, path) as archive:
        if target == "-":
            while data := archive.read(_READ):
                sys.stdout.buffer.write(data)
            return
        folder, name = plan_target(Path(target), os.path.basename(path.rstrip("/")) or sandbox)
        left_out = extract(archive, folder, name)
    if left_out:
        print(f"hyper: left out {left_out} entries that are neither files nor folders", file=sys.stderr)


def plan_target(target: Path, name: str) -> tuple[Path, str]:
    """The folder to write below and the name there: inside ``target`` where that is a folder, else as ``target``.

    :raise NotFoundError: the folder it would be in is not there.
    """
    if target.is_dir():
        # SECURITY: the name is the user's word on the command line; "." and ".." are none for a new file.
        return target, name if name not in (".", "..") else "copy"
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {target.parent}", hint=f"run: mkdir -p {target.parent}")
    return target.parent, target.name


def _copy_in(client: Client, source: str, sandbox: str, path: str) -> None:
    if source == "-":
        client.put_archive(sandbox, path, _chunks(sys.stdin.buffer))
        return
    local = Path(source)
    if not os.path.lexists(local):
        raise NotFoundError(f"there is no {local}", hint="check the path")
    facts = client.stat_path(sandbox, path)
    if (facts and facts["mode"] & _GO_DIR) or path.endswith("/"):
        folder, name = path, local.resolve().name
    else:
        folder, name = os.path.split(path)
    with tempfile.SpooledTemporaryFile(_SPOOL) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(local, arcname=name, filter=_anonymous)
        file.seek(0)
        client.put_archive(sandbox, folder or "/", _chunks(file))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without its owner, whose name is nobody's business in there."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _chunks(file: IO[bytes] | Any) -> Iterator[bytes]:
    while data := file.read(_READ):
        yield data
