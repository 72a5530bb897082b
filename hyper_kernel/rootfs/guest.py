"""What every sandbox boots from: kernel, initial RAM disk and system image, built once and kept by version.

Built from packages of this host's Debian, so that its security updates reach guests too; nothing is compiled, and no
privilege is needed. Building twice at once, or being killed in between, is safe.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel import wire
from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.host.space import check_space
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.rootfs.debian import Apt, unpack
from hyper_kernel.rootfs.initrd import make_initrd
from hyper_kernel.rootfs.kernel import Modules, unpack_kernel
from hyper_kernel.rootfs.system import fill_system, find_python

#: Told what is going on: what, bytes done, bytes in all (0: unknown).
Progress = Callable[[str, int, int], None]

#: Grows when the modules here build something else from the same packages and sources.
_BUILDER = 2
_KERNEL = "linux-image-amd64"
_BUSYBOX = "busybox-static"
#: Needed to mount the system image. crc32c is what libcrc32c asks the kernel's crypto for, unseen by its dependencies.
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "erofs")
#: Loaded by process 1: at boot, and once a folder of the host is to be mounted.
_SYSTEM_MODULES = ("overlay", "vmw_vsock_virtio_transport")
_FOLDER_MODULES = ("9pnet_fd", "9p")
_MODULE_FOLDERS = (
    "drivers/virtio",
    "drivers/block",
    "fs/erofs",
    "fs/overlayfs",
    "fs/netfs",
    "fs/fscache",
    "fs/9p",
    "net/9p",
    "net/vmw_vsock",
    "crypto",
    "lib",
)
#: Room for a build: packages, their unpacked parts, the result.
_NEEDS = 600 << 20
#: A fixed identity of the file system, so that equal contents make equal images.
_UUID = "7f2f7b6e-2f0c-4a6b-9d4f-6a4b1c1d0e55"

#: Besides the console and the end on a panic: ``acpi=noirq`` spares each clone 110 ms in which the guest evaluates
#: ACPI's interrupt links; the others spare boots 0.5 s under emulation: self-tests of ciphers, security modules and
#: wiping of memory (a sandbox has one tenant: the boundary is the machine), a large trace buffer.
CMDLINE = "console=ttyS0 panic=-1 quiet acpi=noirq cryptomgr.notests lsm= init_on_alloc=0 trace_buf_size=1k"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFiles:
    """What a machine boots from. ``cmdline`` is the kernel's command line; ``version`` tells builds apart."""

    kernel: Path
    initrd: Path
    system: Path
    cmdline: str
    version: str


def find_guest(paths: Paths) -> GuestFiles | None:
    """The guest's files, or None where they are missing or were built from other sources than this program's."""
    folder = paths.guest / "current"
    try:
        folder = folder.resolve(strict=True)  # a build may switch the link between two uses
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    if manifest.get("source") != _source_digest(_read_sources()):
        return None
    return _guest_files(folder)


def get_guest(paths: Paths) -> GuestFiles:
    """The guest's files.

    :raise HostError: they have not been built for this version yet.
    """
    guest = find_guest(paths)
    if guest is None:
        raise HostError(
            f"the guest's kernel and system image for this version are not in {paths.guest}", hint="run: hyper setup"
        )
    return guest


def build_guest(paths: Paths, progress: Progress, *, refresh: bool = False) -> GuestFiles:
    """The guest's files, built now where they are missing.

    :param progress: told what is going on.
    :param refresh: build again where Debian has newer packages.
    :raise HostError: packages cannot be had, a tool is missing, or there is no room.
    """
    make_private(paths.guest)
    waiting = lambda: progress("waiting for another build", 0, 0)  # noqa: E731 - a name for the argument
    with hold_lock(paths.guest / "lock", on_wait=waiting):
        guest = find_guest(paths)
        if guest is not None and not refresh:
            return guest
        check_space(paths.guest, _NEEDS, what="building the guest's kernel and system image")
        return _build(paths.guest, progress)


def _build(guests: Path, progress: Progress) -> GuestFiles:
    """Build into a folder next to its place, rename it there, switch the link."""
    apt = Apt(guests / "packages")
    progress("asking apt for packages", 0, 0)
    (meta,) = apt.find([_KERNEL])
    kernel, busybox = apt.find([next(name for name in meta.depends if name.startswith("linux-image-")), _BUSYBOX])
    packages = [kernel, busybox, *find_python(apt)]
    total = sum(package.size for package in packages)
    progress("fetching the kernel", 0, total)
    archives = apt.fetch(packages[:1])
    progress("fetching Python", kernel.size, total)
    archives += apt.fetch(packages[1:])
    progress("fetched the packages", total, total)
    sources = _read_sources()
    manifest = {
        "source": _source_digest(sources),
        "packages": {package.name: package.version for package in packages},
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    folder = guests / f"{kernel.name.removeprefix('linux-image-')}-{digest[:12]}"
    if not (folder / "manifest.json").exists():
        with tempfile.TemporaryDirectory(prefix="building-", dir=guests, ignore_cleanup_errors=True) as work:
            made = Path(work) / "made"
            made.mkdir()
            _make_files(made, Path(work), archives, sources, progress)
            (made / "manifest.json").write_text(json.dumps(manifest, indent=1))
            made.rename(folder)
    _switch(guests, folder)
    apt.drop_others(archives)
    return _guest_files(folder)


def _make_files(made: Path, work: Path, archives: list[Path], sources: dict[str, bytes], progress: Progress) -> None:
    """The three files, from the archives of the kernel, busybox, and Python's packages, in this order."""
    kernel, busybox, *pythons = archives
    progress("unpacking the kernel", 0, 0)
    unpack(kernel, work / "kernel", _is_kernel_part)
    modules = Modules(next((work / "kernel/lib/modules").iterdir()))
    image = next((work / "kernel/boot").glob("vmlinuz-*"))
    (made / "vmlinuz").write_bytes(unpack_kernel(image.read_bytes()))
    boot = modules.load_order(_BOOT_MODULES)
    system_modules = modules.load_order((*_BOOT_MODULES, *_SYSTEM_MODULES))
    rest = {
        "modules": {name: data for name, data in system_modules.items() if name not in boot},
        "modules-9p": {
            name: data for name, data in modules.load_order(_FOLDER_MODULES).items() if name not in system_modules
        },
    }
    progress("making the system image", 0, 0)
    system = work / "system"
    system.mkdir()
    init = fill_system(system, pythons, sources, rest)
    argv = ["mkfs.erofs", "--quiet", "--all-root", "-T0", f"-U{_UUID}", str(made / "system.erofs"), str(system)]
    run_command(argv, hint="install erofs-utils")
    unpack(busybox, work / "busybox", lambda path: path.endswith("bin/busybox"))
    program = next((work / "busybox").rglob("busybox"))
    (made / "initrd").write_bytes(make_initrd(program.read_bytes(), boot, init))


def _is_kernel_part(path: str) -> bool:
    inside = path.partition("/kernel/")[2]
    return path.startswith("boot/vmlinuz-") or path.endswith("/modules.builtin") or inside.startswith(_MODULE_FOLDERS)


def _switch(guests: Path, folder: Path) -> None:
    """Make ``current`` mean this version; keep the one before it, which machines may be starting from right now."""
    link, partial = guests / "current", guests / f"current.{os.getpid()}"
    before = link.resolve() if link.exists() else folder
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(link)
    for old in guests.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name != "packages" and old not in (folder, before.absolute()):
            shutil.rmtree(old, ignore_errors=True)


def _guest_files(folder: Path) -> GuestFiles:
    return GuestFiles(
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd",
        system=folder / "system.erofs",
        cmdline=CMDLINE,
        version=folder.name,
    )


def _read_sources() -> dict[str, bytes]:
    """The guest's sources: path below Python's library in the system image to content.

    :raise HostError: they are missing.
    """
    package = Path(wire.__file__).parent
    for folder in (package / "_guest", package.parent / "guest"):
        files = {f"guest/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
        if files:
            wire_source = Path(wire.__file__).read_bytes()
            return {**files, "hyper_kernel/__init__.py": b"", "hyper_kernel/wire.py": wire_source}
    raise HostError(f"the guest's sources are missing beside {package}", hint="install hyper-kernel again")


def _source_digest(sources: dict[str, bytes]) -> str:
    """A digest of all that decides what is built from given packages."""
    digest = hashlib.sha256(f"{_BUILDER} {_BOOT_MODULES} {_SYSTEM_MODULES} {_FOLDER_MODULES}".encode())
    for path, content in sorted(sources.items()):
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()
