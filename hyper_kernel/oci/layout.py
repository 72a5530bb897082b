"""Reading an OCI image layout: a folder of blobs named by their digests.

See the OCI image specification: image-layout.md, manifest.md, config.md.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyper_kernel.errors import HostError

#: Manifests and configurations are small; a larger one is damaged or hostile.
MAX_DOCUMENT = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class DamagedError(HostError):
    """An image in the store cannot be read; the message names the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about the programs in it, see config.md; ``env`` entries are ``NAME=value``."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    labels: dict[str, str]
    architecture: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a layout's image consists of.

    :param id: digest of the configuration: what Docker calls the image's id.
    :param manifest: digest of the manifest: what registries call it by.
    :param blobs: every blob it needs, with its size in bytes.
    :param layers: digests of the layers' contents, lowest first.
    """

    id: str
    manifest: str
    config: ImageConfig
    created: str
    layers: tuple[str, ...]
    blobs: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return sum(self.blobs.values())


def start_layout(folder: Path, blobs: Path) -> None:
    """Make an empty layout in an existing folder, its blobs in a folder shared with other layouts.

    :param blobs: relative to the layout.
    """
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    (folder / "blobs").symlink_to(blobs)


def blob_path(layout: Path, digest: str) -> Path:
    """Where a blob is kept.

    :raise DamagedError: that is not a digest.
    """
    # SECURITY: digests come from images; one with a slash would name any file of the host.
    if not _DIGEST.fullmatch(digest):
        raise DamagedError(f"{digest[:80]!r} is not a digest that is known here")
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def read_layout(layout: Path) -> Content:
    """Read a layout's one image, checking its documents against their digests (its layers are checked when unpacked).

    :raise DamagedError: something is missing or is not what it should be.
    """
    try:
        index = json.loads(_read(layout / "index.json"))
        manifest_digest = index["manifests"][0]["digest"]
        manifest = _document(layout, manifest_digest)
        descriptors = [manifest["config"], *manifest["layers"]]
        config_digest = manifest["config"]["digest"]
        config = _document(layout, config_digest)
        blobs = {entry["digest"]: int(entry["size"]) for entry in descriptors}
        blobs[manifest_digest] = int(index["manifests"][0]["size"])
        _check_sizes(layout, blobs)
        return Content(
            id=config_digest,
            manifest=manifest_digest,
            config=parse_config(config),
            created=str(config.get("created") or ""),
            layers=tuple(config.get("rootfs", {}).get("diff_ids", ())),
            blobs=blobs,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as exc:
        raise DamagedError(f"its description cannot be read ({type(exc).__name__}: {exc})") from exc


def parse_config(document: dict[str, Any]) -> ImageConfig:
    """The configuration in an image's configuration document; what is absent or null there is empty here.

    :raise DamagedError: a member is not of the type that config.md says.
    """
    inner = document.get("config") or {}
    labels = inner.get("Labels") or {}
    if not all(isinstance(part, str) for pair in labels.items() for part in pair):
        raise DamagedError("its labels are not strings")
    return ImageConfig(
        env=_strings(inner, "Env"),
        entrypoint=_strings(inner, "Entrypoint"),
        cmd=_strings(inner, "Cmd"),
        cwd=_string(inner, "WorkingDir"),
        user=_string(inner, "User"),
        labels=dict(labels),
        architecture=_string(document, "architecture"),
    )


def find_damaged(layout: Path, content: Content) -> list[str]:
    """The digests of an image's blobs that are missing or do not hold what their digest says; reads all of them."""
    damaged = []
    for digest in content.blobs:
        path = blob_path(layout, digest)
        if not path.exists():
            damaged.append(digest)
            continue
        with path.open("rb") as file:
            if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
                damaged.append(digest)
    return damaged


def _document(layout: Path, digest: str) -> dict[str, Any]:
    raw = _read(blob_path(layout, digest))
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
        raise DamagedError(f"the contents of {digest[:19]} do not match its digest")
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise DamagedError(f"{digest[:19]} does not hold a JSON object")
    return value


def _check_sizes(layout: Path, blobs: dict[str, int]) -> None:
    for digest, size in blobs.items():
        found = blob_path(layout, digest).stat().st_size
        if found != size:
            raise DamagedError(f"{digest[:19]} has {found} bytes in place of {size}")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_DOCUMENT + 1)
    if len(raw) > MAX_DOCUMENT:
        raise DamagedError(f"{path.name[:12]} is over {MAX_DOCUMENT >> 20} MiB")
    return raw


def _strings(data: dict[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DamagedError(f"its {key} is not a list of strings")
    return tuple(value)


def _string(data: dict[str, Any], key: str) -> str:
    value = data.get(key) or ""
    if not isinstance(value, str):
        raise DamagedError(f"its {key} is not a string")
    return value
