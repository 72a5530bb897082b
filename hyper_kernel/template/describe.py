"""What may be shown of a template."""

import fcntl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyper_kernel.oci.store import Image
from hyper_kernel.template.store import SEALS, Template

_SEAL_WORDS = {
    "shrink": fcntl.F_SEAL_SHRINK,
    "grow": fcntl.F_SEAL_GROW,
    "write": fcntl.F_SEAL_WRITE,
    "seal": fcntl.F_SEAL_SEAL,
}


def describe(template: Template, images: Iterable[Image]) -> dict[str, Any]:
    """A template as plain data.

    :param images: those of the store; the names of the template's own are looked up there.
    """
    # SECURITY: never kernel_key: whoever has it can speak as the kernel of each clone.
    return {
        "key": template.key,
        "image": find_image(template, images),
        "kernel": template.facts.get("kernel"),
        "facts": template.facts,
        "memory": _describe_file(template.folder / "memory", template.memory_digest) | {"bytes": template.memory_bytes},
        "state": _describe_file(template.folder / "state", template.state_digest),
        "seals": [word for word, seal in _SEAL_WORDS.items() if seal & SEALS],
        "baked": _time_text(template.baked_s),
        "last_used": _time_text(template.used_s),
    }


def find_image(template: Template, images: Iterable[Image]) -> str:
    """A name of the image whose disk a template's machines have; empty where there is none."""
    files = {path for path, _, _ in template.facts.get("files", ())}
    names = (name for image in images if str(image.disk.resolve()) in files for name in image.names)
    return next(names, "")


def _describe_file(path: Path, digest: str) -> dict[str, Any]:
    """``bytes`` is its size, ``disk_bytes`` what it takes of the disk."""
    try:
        stat = path.stat()
    except OSError:  # it is being removed
        return {"bytes": 0, "disk_bytes": 0, "digest": digest}
    return {"bytes": stat.st_size, "disk_bytes": stat.st_blocks * 512, "digest": digest}


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
