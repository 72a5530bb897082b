"""Which shape sandboxes and wishes have, and which templates fit it, as images, guest and hypervisor are now.

hyperd asks on every start: nothing here boots a machine, makes a disk or waits for another process, except ``settle``.
"""

from dataclasses import replace

from hyper_kernel.errors import HostError
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths
from hyper_kernel.qemu.accel import recall_tier
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox.plan import Shape, plan_boot, plan_shape
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.keep import Keep, full_name
from hyper_kernel.template.source import find_template
from hyper_kernel.template.store import Template, TemplateStore


class Shapes:
    """Looks things up on disk."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._images = ImageStore(paths.images)
        self._templates = TemplateStore(paths.templates)

    def of_record(self, record: Record) -> Shape:
        """The shape of a recorded sandbox.

        :raise HyperError: there is no such image or kernel, or the image's disk is still to be made.
        """
        self._check_disk(record.image_id)
        return plan_shape(self._images, record)

    def of_wish(self, keep: Keep) -> Shape:
        """The shape of machines that are to be kept ready.

        :raise HyperError: as :meth:`of_record`.
        """
        self._check_disk(keep.image)
        return keep.shape(self._images)

    def settle(self, keep: Keep) -> Keep:
        """A wish with the image's full name; makes the image's disk where clones are wanted.

        :raise NotFoundError: clones are wanted, and there is no such image.
        :raise RequestError: they are wanted with a kernel, and it has none that can be cloned.
        :raise HostError: its disk cannot be made.
        """
        if keep.count:
            keep.shape(self._images)
        return replace(keep, image=full_name(self._images, keep.image))

    def name(self, shape: Shape) -> str:
        """What people call the image of a shape."""
        image = self._images.find(shape.image_id)
        return next(iter(image.names if image else ()), shape.image_id)

    async def find_template(self, shape: Shape) -> Template | None:
        """The best template for machines of this shape: with its kernel running, or without.

        :raise HyperError: the image, the guest's files or the hypervisor are gone.
        """
        try:
            if recall_tier(self._paths.tier, get_guest(self._paths).kernel) is None:
                return None  # a shim finds out, by booting
            image = self._images.get(shape.image_id)
            config = await plan_boot(self._paths, image, memory_mib=shape.memory_mib, cpus=shape.cpus, name="any")
            return find_template(self._templates, config, Qemu().build(), shape.kernel)
        except OSError as exc:
            raise HostError(f"a file that machines start from is gone: {exc}", hint="run: hyper setup") from exc

    def _check_disk(self, ref: str) -> None:
        if not self._images.has_disk(self._images.get(ref)):
            raise HostError(f"the disk of image {ref} is still to be made")
