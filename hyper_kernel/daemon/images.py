"""Routes of Docker's /images, as far as they read, tag and remove."""

import asyncio

from hyper_kernel.daemon import docker_json
from hyper_kernel.daemon.errors import NotHereError
from hyper_kernel.daemon.filters import has_labels, parse_filters
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.errors import ConflictError, NotFoundError
from hyper_kernel.oci.store import Image, ImageStore

_FILTERS = frozenset({"reference", "label", "dangling"})


class Images:
    """Answers for images."""

    def __init__(self, images: ImageStore, sandboxes: Sandboxes) -> None:
        self._images = images
        self._sandboxes = sandboxes

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("GET", "/images/json", self.list)
        routes.add("POST", "/images/create", self.pull)
        routes.add("GET", "/images/{name:path}/json", self.inspect)
        routes.add("GET", "/images/{name:path}/history", self.history)
        routes.add("POST", "/images/{name:path}/tag", self.tag)
        routes.add("DELETE", "/images/{name:path}", self.remove)

    def _get(self, call: Call) -> Image:
        ref = call.params["name"]
        image = self._images.find(ref)
        if image is None:
            raise NotFoundError(f"No such image: {ref}", hint="list images with: hyper images")
        return image

    async def list(self, call: Call) -> Answer:
        """GET /images/json."""
        filters = parse_filters(call.query.get("filters", ""), _FILTERS)
        used = [box.record.image_id for box in self._sandboxes.list()]
        images = [
            image
            for image in self._images.images()
            if has_labels(image.config.labels, filters.get("label", []))
            and _is_reference(image, filters.get("reference", []))
            and _is_dangling(image, filters.get("dangling", []))
        ]
        return Answer(body=[docker_json.image_summary(image, used.count(image.id)) for image in images])

    async def inspect(self, call: Call) -> Answer:
        """GET /images/{name}/json."""
        return Answer(body=docker_json.image_details(self._get(call)))

    async def history(self, call: Call) -> Answer:
        """GET /images/{name}/history: its layers, highest first; how each was made is not kept."""
        image = self._get(call)
        base = {"Created": int(docker_json.created_s(image)), "CreatedBy": "", "Tags": None, "Comment": ""}
        rows = [{**base, "Id": layer, "Size": 0} for layer in reversed(image.layers)]
        if rows:
            rows[0] |= {"Id": image.id, "Tags": list(image.names), "Size": image.size}
        return Answer(body=rows)

    async def pull(self, call: Call) -> Answer:
        """POST /images/create."""
        name = call.query.get("fromImage") or call.query.get("fromSrc") or "the image"
        here = ", ".join(name for image in self._images.images() for name in image.names) or "none yet: run hyper setup"
        raise NotHereError(
            f"{name} is not here, and this version of Hyper Kernel pulls no images (here: {here})",
            hint="use an image that is here, or bring one in as an archive",
        )

    async def tag(self, call: Call) -> Answer:
        """POST /images/{name}/tag."""
        name = f"{call.query.get('repo', '')}:{call.query.get('tag') or 'latest'}"
        await asyncio.to_thread(self._images.tag, self._get(call), name)
        return Answer(status=201)

    async def remove(self, call: Call) -> Answer:
        """DELETE /images/{name}."""
        image, ref = self._get(call), call.params["name"]
        users = [box.record.name for box in self._sandboxes.list() if box.record.image_id == image.id]
        if users and len(image.names) <= 1:
            raise ConflictError(
                f"conflict: unable to remove image {ref}: sandbox {users[0]} uses it",
                hint=f"run: hyper rm -f {users[0]}",
            )
        gone = await asyncio.to_thread(self._images.remove, ref)
        return Answer(body=[{"Deleted" if name.startswith("sha256:") else "Untagged": name} for name in gone])


def _is_reference(image: Image, wanted: list[str]) -> bool:
    """Whether a name is one of those wanted, with its tag or without."""
    return not wanted or any(name in wanted or name.rpartition(":")[0] in wanted for name in image.names)


def _is_dangling(image: Image, wanted: list[str]) -> bool:
    return not wanted or (not image.names) == (wanted[0] in ("true", "1"))
