"""umoci: makes OCI images in a layout and unpacks them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyper_kernel.host.command import run_command

#: The tag of the one image in a layout.
TAG = "image"


def create_image(
    layout: Path,
    layer: Path,
    *,
    env: Sequence[str],
    cmd: Sequence[str],
    cwd: str,
    labels: Mapping[str, str],
    created_by: str,
) -> None:
    """Add an image of one layer to a layout.

    :param layer: a tar archive.
    :raise HostError: umoci failed.
    """
    image = f"--image={layout}:{TAG}"
    run_command(["umoci", "new", image])
    run_command(["umoci", "raw", "add-layer", image, f"--history.created_by={created_by}", str(layer)])
    run_command(["umoci", "config", image, "--no-history", *config_options(env, cmd, cwd, labels)])


def config_options(env: Sequence[str], cmd: Sequence[str], cwd: str, labels: Mapping[str, str]) -> list[str]:
    """Options of ``umoci config`` for an image's configuration."""
    options = [f"--config.env={entry}" for entry in env]
    options += [f"--config.cmd={word}" for word in cmd]
    options += [f"--config.label={name}={value}" for name, value in labels.items()]
    return [*options, f"--config.workingdir={cwd}"]


def unpack_argv(layout: Path, rootfs: Path) -> list[str]:
    """The command that unpacks a layout's image into a new folder."""
    return ["umoci", "raw", "unpack", f"--image={layout}:{TAG}", str(rootfs)]


def as_root(argv: Sequence[str], uid: int | None = None) -> list[str]:
    """A command, run where it may own files as any user of an image.

    For an ordinary user that is a user namespace in which they are root and their subordinate ids (/etc/subuid) are
    the other users, so that the disk keeps the image's owners; umoci's own ``--rootless`` would lose them.
    """
    if (os.geteuid() if uid is None else uid) == 0:
        return list(argv)
    return ["unshare", "--map-root-user", "--map-auto", *argv]
