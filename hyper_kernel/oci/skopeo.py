"""skopeo: copies images between archives, registries and layouts."""

import tarfile
from pathlib import Path

from hyper_kernel.errors import RequestError


def copy_argv(source: str, layout: Path, tag: str) -> list[str]:
    """The command that copies an image, in skopeo's notation for sources, into a layout."""
    return ["skopeo", "copy", "--quiet", source, f"oci:{layout}:{tag}"]


def find_transport(path: Path) -> str:
    """How skopeo calls an image on disk: an OCI layout or archive, or what ``docker save`` writes.

    :raise RequestError: it is none of these.
    """
    if (path / "index.json").is_file():
        return f"oci:{path}"
    try:
        with tarfile.open(path) as archive:
            names = {member.name.removeprefix("./") for member in archive}
    except (OSError, tarfile.TarError) as exc:
        raise RequestError(f"{path} cannot be read as an image: {exc}", hint="give an OCI archive or layout") from exc
    for name, transport in (("oci-layout", "oci-archive"), ("manifest.json", "docker-archive")):
        if name in names:
            return f"{transport}:{path}"
    raise RequestError(f"{path} holds no image", hint="give an OCI archive or layout, or what docker save wrote")
