"""A small Linux guest for the vsock contract: a kernel package, an initial RAM disk with this host's Python, no disk.

The kernel comes from the package that ``hyper setup`` fetched, or from a folder that HYPER_TEST_KERNEL names, laid out
like an unpacked package (``/`` on a host whose own kernel will do).
"""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.argv import BINARY
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.rootfs import initrd
from hyper_kernel.rootfs.debian import unpack
from hyper_kernel.rootfs.kernel import Modules, unpack_kernel
from hyper_kernel.vsock.kernel import KernelEnd

KERNEL_FOLDER = "HYPER_TEST_KERNEL"
NEEDED = re.compile(r"^boot/vmlinuz|/modules\.builtin$|/kernel/(drivers/virtio|net/vmw_vsock)/")
PEER = Path(__file__).parent / "vsock_peer_guest.py"
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /$module.ko; done
exec {python} -S -E /peer.py
"""
SKIPPED = {
    "test",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "ensurepip",
    "tkinter",
    "unittest",
    "site-packages",
    "dist-packages",
}


def find_missing():
    """Why no Linux guest can be booted here, or None."""
    for program in (BINARY, "busybox", "ldd"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if KERNEL_FOLDER in os.environ or find_package():
        return None
    return f"no guest kernel: run hyper setup, or set {KERNEL_FOLDER}"


def find_package():
    """The kernel package that the guest was built from last."""
    packages = (find_paths().guest / "packages").glob("linux-image-*.deb")
    return max(packages, key=lambda path: path.stat().st_mtime, default=None)


def find_kernel(folder):
    """Image and folder of modules, unpacked below ``folder`` where need be."""
    if KERNEL_FOLDER in os.environ:
        folder = Path(os.environ[KERNEL_FOLDER])
    else:
        unpack(find_package(), folder, NEEDED.search)
    modules = max((folder / "lib/modules").iterdir())
    return folder / "boot" / f"vmlinuz-{modules.name}", modules


def build(folder):
    """Kernel and initial RAM disk of the guest, below ``folder``."""
    image, modules_folder = find_kernel(folder)
    (folder / "vmlinux").write_bytes(unpack_kernel(image.read_bytes()))
    modules = Modules(modules_folder).load_order(["virtio_pci", "vmw_vsock_virtio_transport"])
    python = str(Path(sys.executable).resolve())
    files = {"bin/busybox": shutil.which("busybox"), "peer.py": PEER} | python_files(python)
    archive = Archive()
    for name in ("dev", "tmp"):
        archive.folder(name)
    archive.entries.append(initrd._entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    for name, path in files.items():
        archive.file(name, Path(path).read_bytes())
    for name, content in modules.items():
        archive.file(f"{name}.ko", content)
    archive.file("init", INIT.format(modules=" ".join(modules), python=python).encode())
    archive.entries.append(initrd._entry("TRAILER!!!", 0))
    (folder / "initrd").write_bytes(b"".join(archive.entries))


def python_files(python):
    """Interpreter, standard library and shared libraries: name in the guest to path here."""
    library = Path(os.__file__).parent
    found = [
        path
        for path in library.rglob("*")
        if path.is_file() and path.suffix in (".py", ".so") and not SKIPPED & set(path.relative_to(library).parts)
    ]
    programs = [Path(python), *(path for path in found if path.suffix == ".so")]
    for program in programs[:]:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        found += [Path(word) for word in listing.split() if word.startswith("/")]
    return {str(path).lstrip("/"): path for path in [*programs, *found]}


class Archive:
    def __init__(self):
        self.entries, self.folders = [], set()

    def folder(self, name):
        if name not in (".", *self.folders):
            self.folder(str(Path(name).parent))
            self.folders.add(name)
            self.entries.append(initrd._entry(name, stat.S_IFDIR | 0o755))

    def file(self, name, content):
        self.folder(str(Path(name).parent))
        self.entries.append(initrd._entry(name, stat.S_IFREG | 0o755, content))


@asynccontextmanager
async def machine(end, files, folder):
    """The guest, running, with the end's device."""
    # The kernel end is tested where KVM is; elsewhere /dev/kvm may be there and not work.
    tier = Tier.HARDWARE if isinstance(end, KernelEnd) and os.access("/dev/kvm", os.R_OK | os.W_OK) else Tier.SOFTWARE
    config = MachineConfig(
        name="vsock-contract",
        tier=tier,
        memory_mib=512,
        cpus=1,
        kernel=files / "vmlinux",
        initrd=files / "initrd",
        cmdline="console=ttyS0 quiet panic=-1 acpi=noirq",
        disks=(),
    )
    assert platform.machine() == "x86_64"
    async with Qemu().start(config, folder) as started:
        end.attach(started.pid)
        await started.plug_vsock(end.device())
        await started.resume()
        try:
            yield started
        except BaseException:
            print(started.console_tail())
            raise
        finally:
            await end.close()
