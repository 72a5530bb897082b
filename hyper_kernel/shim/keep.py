"""Which clones somebody asked to keep ready, on disk."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from hyper_kernel.errors import HostError, RequestError
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB, MAX_KEPT, check_machine
from hyper_kernel.oci.reference import parse_reference
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.sandbox.plan import Shape, plan_shapes
from hyper_kernel.spec import DEFAULT_IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """So many clones of machines with an image and a size: with its kernel running, or for ``programs``."""

    image: str = DEFAULT_IMAGE
    memory_mib: int = DEFAULT_MEMORY_MIB
    cpus: int = DEFAULT_CPUS
    programs: bool = False
    count: int

    def __post_init__(self) -> None:
        check_machine(self.memory_mib, self.cpus)
        if not 0 <= self.count <= MAX_KEPT:
            raise RequestError(f"{self.count} clones is outside 0 to {MAX_KEPT}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A wish from plain data.

        :raise RequestError: a key that is unknown or missing, or a value of another type or outside its limits.
        """
        types = {item.name: item.type for item in fields(cls)}
        for name, value in data.items():
            if type(value) is not types.get(name):
                raise RequestError(f"{name}={value!r} is not what a pool can keep", hint=f"it knows {', '.join(types)}")
        if "count" not in data:
            raise RequestError("count is missing")
        return cls(**data)

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
        self._all: tuple[Keep, ...] = ()
        # None was saved, or it was damaged: demand alone decides then.
        with suppress(OSError, ValueError, TypeError, AttributeError, RequestError):
            self._all = tuple(Keep.from_dict(data) for data in json.loads(path.read_text()))

    def all(self) -> tuple[Keep, ...]:
        """Every wish for at least one clone."""
        return self._all

    def put(self, keep: Keep) -> None:
        """Replace the wish for the same machines.

        :raise HostError: the disk refuses; nothing has changed then.
        """
        others = tuple(one for one in self._all if _machines(one) != _machines(keep))
        wanted = (*others, keep) if keep.count else others
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps([asdict(one) for one in wanted]))
            partial.replace(self._path)
        except OSError as exc:
            raise HostError(f"cannot save {self._path}: {exc}", hint="free some space") from exc
        self._all = wanted


def full_name(images: ImageStore, ref: str) -> str:
    """A reference to an image by which it is found for good: its name with the tag, or its whole id.

    One that is not there is called as the reference says.
    """
    try:
        name = parse_reference(ref).familiar
    except RequestError:
        name = ref
    image = images.find(ref)
    return image.id if image and name not in image.names else name


def describe_unmet(keep: Keep, problem: str) -> dict[str, Any]:
    """A wish that cannot be met, as a pool describes what it has (see ``pool``)."""
    shape = {"image_id": "", "memory_mib": keep.memory_mib, "cpus": keep.cpus, "kernel": None if keep.programs else ""}
    counts = {"parked": 0, "warming": 0, "target": 0, "kept": keep.count}
    return shape | {"image": keep.image} | counts | {"doing": "", "problem": problem}


def _machines(keep: Keep) -> tuple[str, int, int, bool]:
    return keep.image, keep.memory_mib, keep.cpus, keep.programs
