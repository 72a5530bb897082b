"""mkfs.erofs: a read-only disk from a folder."""

from pathlib import Path


def mkfs_argv(folder: Path, disk: Path) -> list[str]:
    """The command that makes a disk of a folder.

    Uncompressed: guests read it through the host's page cache, and unpacking costs a guest more than reading
    (see *Why it is so* in README.md).
    """
    return ["mkfs.erofs", "--quiet", str(disk), str(folder)]
