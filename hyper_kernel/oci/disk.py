"""The read-only disk of an image, and what was seen in it while it was made."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command
from hyper_kernel.host.space import check_space
from hyper_kernel.oci.erofs import mkfs_argv
from hyper_kernel.oci.layout import Content
from hyper_kernel.oci.umoci import as_root, unpack_argv

#: Where Jupyter looks for kernelspecs (jupyter_core.paths.SYSTEM_JUPYTER_PATH), and where conda images keep theirs.
KERNEL_FOLDERS = (
    "usr/local/share/jupyter/kernels",
    "usr/share/jupyter/kernels",
    "opt/conda/share/jupyter/kernels",
)
#: Layers are compressed: unpacked they take about three times as much, and the disk that much again.
_GROWTH = 6
_MAX_KERNELS = 64
_MAX_KERNEL_JSON = 256 << 10
_MAX_LINKS = 16


def make_disk(layout: Path, content: Content, disk: Path, scratch: Path) -> dict[str, Any]:
    """Unpack a layout's image and make a disk of it; the disk is there whole or not at all.

    :param disk: the file to make.
    :param scratch: a folder for what is in the making, on the same file system.
    :return: the kernelspecs found in the image: their ``kernel.json``, by name.
    :raise HostError: no space, or the image cannot be unpacked.
    """
    check_space(scratch, _GROWTH * content.size, what="making the disk of an image")
    with _work_folder(scratch) as work:
        rootfs = work / "rootfs"
        run_command(as_root(unpack_argv(layout, rootfs)))
        kernels = find_kernels(rootfs)
        run_command(as_root(mkfs_argv(rootfs, work / "disk")))
        (work / "disk").replace(disk)
        return kernels


def find_kernels(rootfs: Path) -> dict[str, Any]:
    """The kernelspecs in an unpacked image, by name; what cannot be read is left out."""
    kernels: dict[str, Any] = {}
    for place in KERNEL_FOLDERS:
        folder = resolve_inside(rootfs, place)
        if folder is None or not folder.is_dir():
            continue
        for name in sorted(os.listdir(folder))[:_MAX_KERNELS]:
            spec = _read_kernel(rootfs, f"{place}/{name}/kernel.json")
            if spec is not None:
                kernels.setdefault(name, spec)
    return kernels


def resolve_inside(root: Path, path: str) -> Path | None:
    """A path of an unpacked image on the host, its symlinks followed as the image's own programs would.

    :return: the path, which is inside ``root`` and has no symlink below it; None where there is nothing.
    """
    # SECURITY: an image's symlinks are its author's; followed by the host they would name any file of the host.
    done: list[str] = []
    left, links = path.split("/")[::-1], 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if here.is_symlink():
            links += 1
            target = os.readlink(here)
            if links > _MAX_LINKS:
                return None
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
        else:
            done.append(part)
    found = root.joinpath(*done)
    return found if found.exists() else None


def _read_kernel(rootfs: Path, path: str) -> dict[str, Any] | None:
    file = resolve_inside(rootfs, path)
    if file is None or not file.is_file() or file.stat().st_size > _MAX_KERNEL_JSON:
        return None
    try:
        spec = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return spec if isinstance(spec, dict) and isinstance(spec.get("argv"), list) else None


@contextmanager
def _work_folder(scratch: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="disk-", dir=scratch))
    try:
        yield work
    except OSError as exc:
        raise HostError(f"cannot make the disk of an image in {scratch}: {exc}", hint="see df and its rights") from exc
    finally:
        remove_tree(work)


def remove_tree(folder: Path) -> None:
    """Remove an unpacked image, whose folders may be closed to us or belong to subordinate ids."""
    # SECURITY: should anything of the host be mounted below it, that stays.
    run_command(as_root(["rm", "-rf", "--one-file-system", str(folder)]))
