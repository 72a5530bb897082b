"""The images of this user, on disk.

::

    names.json           {"hyper/python:latest": "sha256:<id>"}
    blobs/sha256/        blobs of all images, each once
    images/<id>/         an OCI layout with this one image; its blobs/ is a symlink to the shared ones
        disk.erofs       its disk, once it has been needed
        disk.json        what was seen when the disk was made: {"kernels": {name: kernel.json}}
    scratch/             what is in the making
    lock, use.lock       names.json is being changed; blobs are in use (shared) or being swept (alone)

Everything appears by a rename of something finished, so a process killed at any point leaves only scratch behind,
which the next sweep takes away.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyper_kernel.errors import HostError, HyperError, NotFoundError, RequestError
from hyper_kernel.host.command import CommandError, run_command
from hyper_kernel.host.lock import hold_lock, try_lock
from hyper_kernel.host.space import SPACE_HINT, check_space
from hyper_kernel.oci.disk import make_disk, remove_tree
from hyper_kernel.oci.layout import (
    Content,
    DamagedError,
    ImageConfig,
    blob_path,
    find_damaged,
    read_layout,
    start_layout,
)
from hyper_kernel.oci.reference import parse_reference
from hyper_kernel.oci.skopeo import copy_argv, find_transport
from hyper_kernel.oci.umoci import TAG
from hyper_kernel.paths import make_private

_log = logging.getLogger(__name__)
_MIN_PREFIX = 4
#: What an import needs at least, in bytes, before its size is known.
_MIN_SPACE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of the store.

    :param id: ``sha256:`` and 64 digits: the digest of its configuration, as Docker has it.
    :param names: as Docker prints them (``hyper/python:latest``); none where only the id is left.
    :param manifest: the digest registries know it by.
    :param created: when, as RFC 3339 text; may be empty.
    :param size: bytes of its blobs.
    :param layers: digests of the layers' contents, lowest first.
    :param disk: its disk, which is there once :meth:`ImageStore.get_disk` has made it.
    """

    id: str
    names: tuple[str, ...]
    manifest: str
    config: ImageConfig
    created: str
    size: int
    layers: tuple[str, ...]
    disk: Path


class ImageStore:
    """Images by name and id; several processes may use one folder.

    :param folder: made private to this user where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"
        self._scratch = folder / "scratch"
        make_private(folder)
        for part in (self._blobs / "sha256", folder / "images", self._scratch):
            part.mkdir(parents=True, exist_ok=True)

    @property
    def build_lock(self) -> Path:
        """The file to lock while an image is built for this store."""
        return self._folder / "build.lock"

    def images(self) -> list[Image]:
        """All images that can be read, newest first; a damaged one is left out and logged."""
        found = []
        for folder in (self._folder / "images").iterdir():
            try:
                found.append(self._load(f"sha256:{folder.name}"))
            except DamagedError as exc:
                _log.warning("%s (%s)", exc, exc.hint)
        return sorted(found, key=lambda image: (image.created, image.id), reverse=True)

    def find(self, ref: str) -> Image | None:
        """The image a name, an id or the start of an id means; None where there is none.

        :raise RequestError: it is no name, or the start of several ids.
        :raise HostError: the image is damaged.
        """
        image_id = self._find_id(ref)
        return self._load(image_id) if image_id else None

    def get(self, ref: str) -> Image:
        """The image a name, an id or the start of an id means.

        :raise NotFoundError: there is none.
        :raise HostError: it is damaged.
        """
        image = self.find(ref)
        if image is None:
            names = ", ".join(sorted(self._read_names())) or "none yet: run hyper setup"
            raise NotFoundError(f"there is no image {ref}", hint=f"images here: {names}")
        return image

    def tag(self, image: Image, name: str) -> Image:
        """Give an image a name, taking it from the one that had it; return the image with its names.

        :raise RequestError: it is no name.
        """
        parsed = parse_reference(name)
        if parsed.digest:
            raise RequestError(f"{name!r} has a digest, which cannot be given", hint="give a name and a tag")
        with self._changed_names() as names:
            names[parsed.familiar] = image.id
        return self._load(image.id)

    def remove(self, ref: str) -> list[str]:
        """Take away a name, and the image with its last name; by id, the image with all its names.

        Works on damaged images. Disks in use stay with the machines that have them open.

        :return: what went: names, then ids.
        :raise NotFoundError: there is no such image.
        """
        image_id = self._find_id(ref)
        if image_id is None:
            raise NotFoundError(f"there is no image {ref}", hint="hyper images lists them")
        with self._changed_names() as names:
            mine = [name for name, target in names.items() if target == image_id]
            named = [name for name in mine if not ref.startswith("sha256:") and name == parse_reference(ref).familiar]
            gone = named or mine
            for name in gone:
                del names[name]
            if image_id in names.values():
                return gone
        remove_tree(self._image_folder(image_id))
        self.sweep()
        return [*gone, image_id]

    def has_disk(self, image: Image) -> bool:
        """Whether an image's disk has been made."""
        return (self._image_folder(image.id) / "disk.json").exists() and image.disk.exists()

    def get_disk(self, image: Image) -> Path:
        """An image's disk, made now if it has not been needed before.

        :raise HostError: there is no room, or the image is damaged; says what to do.
        """
        self._get_facts(image)
        return image.disk

    def get_kernels(self, image: Image) -> dict[str, Any]:
        """The kernelspecs in an image: their ``kernel.json``, by name; makes the disk to find out.

        :raise HostError: as :meth:`get_disk`.
        """
        kernels: dict[str, Any] = self._get_facts(image)["kernels"]
        return kernels

    def import_oci(self, path: Path, name: str = "") -> Image:
        """Take in an image from an OCI archive or layout, or from what ``docker save`` wrote.

        :param name: the name to give it; none where empty.
        :raise RequestError: it holds no image, or ``name`` is no name.
        :raise HostError: there is no room, or skopeo fails.
        """
        if name:
            parse_reference(name)
        source = find_transport(path)
        check_space(self._scratch, max(_MIN_SPACE, _size_of(path)), what=f"importing {path}")
        with self.new_layout() as layout:
            run_command(copy_argv(source, layout, TAG), hint=f"check that {path} is whole: skopeo inspect {source}")
            return self.add(layout, name)

    @contextmanager
    def new_layout(self) -> Iterator[Path]:
        """An empty layout to put one image in, for :meth:`add`; taken away at the end unless it was added."""
        with hold_lock(self._folder / "use.lock", shared=True):
            layout = Path(tempfile.mkdtemp(prefix="layout-", dir=self._scratch))
            try:
                start_layout(layout, Path("../../blobs"))
                yield layout
            finally:
                shutil.rmtree(layout, ignore_errors=True)

    def add(self, layout: Path, name: str = "") -> Image:
        """Make a finished layout of :meth:`new_layout` an image of the store, under a name where one is given.

        :raise HostError: it holds no readable image.
        """
        image_id = read_layout(layout).id
        folder = self._image_folder(image_id)
        with suppress(OSError):  # the same image is there already: it stays
            layout.rename(folder)
        image = self._load(image_id)
        return self.tag(image, name) if name else image

    def sweep(self) -> None:
        """Take away blobs of no image and what killed processes left; leaves it to a later one while others work."""
        with try_lock(self._folder / "use.lock") as held:
            if not held:
                return
            for left in self._scratch.iterdir():
                remove_tree(left)
            wanted: set[str] = set()
            for folder in (self._folder / "images").iterdir():
                try:
                    wanted |= {digest.removeprefix("sha256:") for digest in read_layout(folder).blobs}
                except DamagedError:
                    return  # what it needs is not known, so nothing can be said to be unused
            for blob in (self._blobs / "sha256").iterdir():
                if blob.name not in wanted:
                    blob.unlink()

    def _get_facts(self, image: Image) -> dict[str, Any]:
        folder = self._image_folder(image.id)
        facts = folder / "disk.json"
        with hold_lock(self._folder / "use.lock", shared=True), hold_lock(folder / "disk.lock"):
            if not self.has_disk(image):
                facts.unlink(missing_ok=True)
                content = self._read(image.id)
                try:
                    kernels = make_disk(folder, content, image.disk, self._scratch)
                except CommandError as exc:
                    raise self._explain(image.id, content, exc) from exc
                _write_json(facts, {"kernels": kernels})
            found: dict[str, Any] = json.loads(facts.read_text())
            return found

    def _explain(self, image_id: str, content: Content, error: CommandError) -> HyperError:
        """Why a disk could not be made. Blobs that are not what they are called are removed, so a new copy mends it."""
        if "no space left on device" in error.tail.lower():
            return HostError(f"{self._folder} filled up while the disk of an image was made", hint=SPACE_HINT)
        folder = self._image_folder(image_id)
        damaged = find_damaged(folder, content)
        if not damaged:
            return error
        for digest in damaged:
            blob_path(folder, digest).unlink(missing_ok=True)
        return self._damaged(image_id, f"{len(damaged)} of its blobs do not match their digests")

    def _read(self, image_id: str) -> Content:
        try:
            content = read_layout(self._image_folder(image_id))
        except DamagedError as exc:
            raise self._damaged(image_id, str(exc)) from exc
        if content.id != image_id:
            raise self._damaged(image_id, "it holds another image")
        return content

    def _damaged(self, image_id: str, reason: str) -> DamagedError:
        names = [name for name, target in self._read_names().items() if target == image_id]
        name = names[0] if names else image_id.removeprefix("sha256:")[:12]
        return DamagedError(
            f"image {name} is damaged: {reason}", hint=f"get it again: hyper rmi {name}, then hyper setup or hyper pull"
        )

    def _load(self, image_id: str) -> Image:
        content = self._read(image_id)
        return Image(
            id=image_id,
            names=tuple(sorted(name for name, target in self._read_names().items() if target == image_id)),
            manifest=content.manifest,
            config=content.config,
            created=content.created,
            size=content.size,
            layers=content.layers,
            disk=self._image_folder(image_id) / "disk.erofs",
        )

    def _find_id(self, ref: str) -> str | None:
        text = ref.removeprefix("sha256:")
        ids = [folder.name for folder in (self._folder / "images").iterdir()]
        if text in ids:
            return f"sha256:{text}"
        if text == ref:
            parsed, names = parse_reference(ref), self._read_names()
            if parsed.digest:
                return next((image.id for image in self.images() if image.manifest == parsed.digest), None)
            if parsed.familiar in names:
                return names[parsed.familiar]
        if not re.fullmatch(rf"[0-9a-f]{{{_MIN_PREFIX},64}}", text):
            return None
        matches = [image_id for image_id in ids if image_id.startswith(text)]
        if len(matches) > 1:
            raise RequestError(f"{ref} is the start of {len(matches)} ids", hint="give more digits")
        return f"sha256:{matches[0]}" if matches else None

    def _image_folder(self, image_id: str) -> Path:
        return self._folder / "images" / image_id.removeprefix("sha256:")

    def _read_names(self) -> dict[str, str]:
        try:
            names: dict[str, str] = json.loads((self._folder / "names.json").read_text())
        except FileNotFoundError:
            return {}
        return names

    @contextmanager
    def _changed_names(self) -> Iterator[dict[str, str]]:
        with hold_lock(self._folder / "lock"):
            names = self._read_names()
            yield names
            _write_json(self._folder / "names.json", names)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def _size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) or path.stat().st_size
