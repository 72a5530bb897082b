"""A guest kernel out of a distribution's package: the image itself, and modules with what they depend on."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Iterable
from pathlib import Path

from hyper_kernel.errors import HostError

_UNPACK = {
    b"\xfd7zXZ\0": lzma.decompress,
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"]\0\0": lzma.decompress,
}


def unpack_kernel(image: bytes) -> bytes:
    """The ELF file inside a bzImage, or the image as it is where its compression is not known here.

    QEMU boots the ELF file by the PVH entry, without the decompressor: seconds less under software emulation.
    The header is described in the kernel's Documentation/x86/boot.rst.

    :param image: a bzImage.
    """
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return image
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    for magic, unpack in _UNPACK.items():
        if payload.startswith(magic):
            # The last four bytes are the unpacked size; the kernel's build appends them where the format has none.
            elf = lzma.LZMADecompressor().decompress(payload) if unpack is lzma.decompress else unpack(payload)
            return elf if elf.startswith(b"\x7fELF") else image
    return image


class Modules:
    """The loadable modules of one kernel.

    :param folder: ``lib/modules/RELEASE`` of its package.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {_name(path): path for path in sorted(folder.rglob("*.ko*"))}
        built_in = folder / "modules.builtin"
        lines = built_in.read_text().splitlines() if built_in.exists() else []
        self._built_in = {_name(Path(line)) for line in lines}

    def load_order(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """Name to content of the modules and all that they depend on, dependencies first; built-in ones are left out.

        :raise HostError: the kernel has no such module.
        """
        order: dict[str, bytes] = {}
        for name in wanted:
            self._add(name, order)
        return order

    def _add(self, name: str, order: dict[str, bytes]) -> None:
        if name in order or name in self._built_in:
            return
        if name not in self._files:
            raise HostError(
                f"the guest kernel has no module {name}", hint="use a distribution's generic kernel package"
            )
        content = _read(self._files[name])
        for needed in _depends(content):
            self._add(needed, order)
        order[name] = content


def _name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _read(path: Path) -> bytes:
    """A module's content, unpacked."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".ko":
        return path.read_bytes()
    raise HostError(f"the kernel module {path.name} is compressed in a way that is not known here")


def _depends(content: bytes) -> list[str]:
    """What a module says it needs in its ``.modinfo`` section; packages carry no modules.dep, depmod makes it later."""
    _, found, rest = content.partition(b"\0depends=")
    if not found:
        return []
    names = rest.partition(b"\0")[0].decode("ascii", "replace")
    return [name.replace("-", "_") for name in names.split(",") if name]
