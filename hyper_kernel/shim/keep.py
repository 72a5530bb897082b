"""Which clones somebody asked to keep ready, on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hyper_kernel.errors import HostError, RequestError
from hyper_kernel.limits import MAX_KEPT, check_machine
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.sandbox.plan import Shape, plan_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """So many clones of machines with an image and a size: with its kernel running, or for programs."""

    image: str
    memory_mib: int
    cpus: int
    programs: bool
    count: int

    def __post_init__(self) -> None:
        check_machine(self.memory_mib, self.cpus)
        if not 0 <= self.count <= MAX_KEPT:
            raise RequestError(f"{self.count} clones is outside 0 to {MAX_KEPT}")

    def shape(self, images: ImageStore) -> Shape:
        """Their shape, as the image is now.

        :raise NotFoundError: there is no such image.
        :raise RequestError: it has no kernel that can be cloned.
        """
        image = images.get(self.image)
        shapes = plan_shapes(images, image, memory_mib=self.memory_mib, cpus=self.cpus)
        for shape in shapes:
            if (shape.kernel is None) == self.programs:
                return shape
        raise RequestError(f"image {self.image} has no kernel that can be cloned", hint="use --programs")


class KeepList:
    """What is to be kept ready.

    :param path: where it is saved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: dict[tuple[str, int, int, bool], Keep] = {}
        try:
            for data in json.loads(path.read_text()):
                self._note(Keep(**data))
        except (OSError, ValueError, TypeError, RequestError):
            self._all.clear()  # none was saved, or it was damaged: demand alone decides then

    def all(self) -> list[Keep]:
        """Every wish for at least one clone."""
        return list(self._all.values())

    def put(self, keep: Keep) -> None:
        """Replace the wish for the same machines.

        :raise HostError: the disk refuses.
        """
        self._note(keep)
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps([asdict(one) for one in self.all()]))
            partial.replace(self._path)
        except OSError as exc:
            raise HostError(f"cannot save {self._path}: {exc}", hint="free some space") from exc

    def _note(self, keep: Keep) -> None:
        same = (keep.image, keep.memory_mib, keep.cpus, keep.programs)
        self._all.pop(same, None)
        if keep.count:
            self._all[same] = keep
