"""Room on the host's disks."""

import shutil
from pathlib import Path

from hyper_kernel.errors import HostError

SPACE_HINT = "make room there, or set HYPER_HOME (for temporary files TMPDIR) to a folder on a larger disk"


def check_space(folder: Path, need: int, *, what: str) -> None:
    """Refuse to start what cannot fit.

    :param folder: where it would be written; must exist.
    :param need: bytes.
    :param what: what is about to be written, for the error.
    :raise HostError: names both sizes.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise HostError(
            f"{what} needs {need >> 20} MiB in {folder}, which has {free >> 20} MiB free",
            hint=SPACE_HINT,
        )
