"""Who this sandbox is: what ``resync`` says, applied to the machine and to the image.

A clone wakes up with its template's random state, clock, hostname and machine id. Nothing reaches a user before all
of them are its own.
"""

import os
import socket
import stat
from typing import Any, NamedTuple

from guest import machine
from guest.children import ask_inside

_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"


class ImageConfig(NamedTuple):
    """What the OCI image says about the programs started in it."""

    env: dict[str, str]
    user: str
    cwd: str


def read_image_config(args: dict[str, Any]) -> ImageConfig:
    """The image's part of the arguments of ``resync``."""
    image = args.get("image", {})
    env = dict(entry.partition("=")[::2] for entry in image.get("env", []))
    return ImageConfig(env, image.get("user", ""), image.get("cwd") or "/")


def take_identity(args: dict[str, Any], root: str) -> None:
    """Apply the arguments of ``resync``.

    :raise OSError, ValueError, KeyError: what was refused or missing; the sandbox must not be used then.
    """
    machine.add_entropy(bytes.fromhex(args["entropy"]))
    machine.renew_boot_id()
    machine.set_clock(args["time_ns"])
    socket.sethostname(args["hostname"])
    machine.limit_scratch(args.get("scratch_mib", 0))
    ask_inside(root, lambda: _write_files(args["hostname"]))


def _write_files(hostname: str) -> None:
    """Inside the image: the files in which programs look for the identity."""
    os.makedirs("/etc", exist_ok=True)
    for path, content in {
        "/etc/machine-id": f"{os.urandom(16).hex()}\n",
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": _HOSTS.format(hostname=hostname),
    }.items():
        if os.path.lexists(path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                continue
            os.unlink(path)
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
