"""The outer machine's files: Debian's cloud kernel with KVM and vhost-vsock, and a root file system with QEMU.

Built once from the packages that the host's apt has, without privilege; kept by a digest of what decides the result.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyper_kernel.host.command import run_command
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.host.space import check_space
from hyper_kernel.oci.disk import remove_tree
from hyper_kernel.oci.mmdebstrap import Bootstrap, find_apt_options, find_archives, read_suite, run_bootstrap
from hyper_kernel.oci.umoci import as_root
from hyper_kernel.paths import make_private
from hyper_kernel.rootfs.debian import Apt, Package, unpack
from hyper_kernel.rootfs.initrd import make_initrd
from hyper_kernel.rootfs.kernel import Modules

KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"
#: What runs in the outer machine. busybox: the contract's guest is made of it, and it powers the machine off.
PACKAGES = (BUSYBOX, "bubblewrap", "python3", "qemu-system-x86")
#: Loaded by the initial RAM disk, in this order; crc32c is what erofs asks the kernel's crypto for, unseen by depmod.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "erofs", "overlay", "kvm_amd", "vhost_vsock")
NEEDED = re.compile(r"^boot/vmlinuz|/modules\.builtin$|/kernel/(arch/x86|drivers|fs|net/vmw_vsock|virt|crypto|lib)/")
EXCLUDES = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
NEEDS = 1500 << 20
EPOCH = 1704067200
#: Process 1 of the outer machine. The last line that it prints is the verdict.
INIT = """\
#!/bin/sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
mkdir /dev/shm
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs tmp /tmp
busybox mount -t tmpfs run /run
busybox mount -t erofs -o ro /dev/vdb /job
sh /job/run.sh
echo "OUTER RESULT $?"
busybox poweroff -f
"""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterImage:
    """What the outer machine boots from."""

    kernel: Path
    initrd: Path
    root: Path


def get_image(folder: Path, report: Report) -> OuterImage:
    """The outer machine's files, built now where they are missing or Debian has newer packages.

    :param folder: keeps them.
    :raise HostError: packages cannot be had, a tool is missing, or there is no room.
    """
    make_private(folder)
    with hold_lock(folder / "lock", on_wait=lambda: report("waiting for another build")):
        apt, suite = Apt(folder / "packages"), read_suite()
        (meta,) = apt.find([KERNEL])
        packages = apt.find([next(name for name in meta.depends if name.startswith("linux-image-")), *PACKAGES])
        place = folder / f"image-{digest(suite, packages)}"
        if not place.exists():
            remove_others(folder, place)
            check_space(folder, NEEDS, what="building the outer machine's root file system")
            with work_folder() as work:
                build(place, work, suite, apt, packages, report)
    return OuterImage(kernel=place / "vmlinuz", initrd=place / "initrd", root=place / "root.erofs")


def digest(suite: str, packages: list[Package]) -> str:
    """Of all that decides what is built."""
    facts = [suite, [f"{package.name}={package.version}" for package in packages], Path(__file__).read_text()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def build(place: Path, work: Path, suite: str, apt: Apt, packages: list[Package], report: Report) -> None:
    """Build in ``work``, and put the result in its place whole."""
    made = place.with_name(f"building-{os.getpid()}")
    made.mkdir()
    try:
        report(f"unpacking {packages[0].name}")
        make_boot_files(made, work, apt, packages)
        make_root(made / "root.erofs", work, suite, report)
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def make_boot_files(made: Path, work: Path, apt: Apt, packages: list[Package]) -> None:
    kernel, busybox = apt.fetch(packages[:2])
    unpack(kernel, work / "kernel", NEEDED.search)
    unpack(busybox, work / "busybox", lambda path: path.endswith("bin/busybox"))
    shutil.copy(next((work / "kernel/boot").glob("vmlinuz-*")), made / "vmlinuz")
    modules = Modules(next((work / "kernel/lib/modules").iterdir())).load_order(MODULES)
    program = next((work / "busybox").rglob("busybox"))
    apt.drop_others([kernel, busybox])
    (made / "initrd").write_bytes(make_initrd(program.read_bytes(), modules, ["/init"]))


def make_root(disk: Path, work: Path, suite: str, report: Report) -> None:
    (work / "init").write_text(INIT)
    (work / "init").chmod(0o755)
    config = Bootstrap(
        suite=suite,
        archives=find_archives(suite),
        apt_options=(*find_apt_options(), 'Acquire::Languages "none"'),
        packages=PACKAGES,
        excludes=EXCLUDES,
        hooks=('mkdir "$1/job"', f"copy-in {work}/init /", 'rm -rf "$1/var/cache/apt" "$1/var/lib/apt"'),
        output=work / "root.tar",
    )
    run_bootstrap(config, report=report, scratch=work, epoch=EPOCH)
    report("making the disk")
    root = work / "root"
    root.mkdir()
    run_command(as_root(["tar", "--extract", f"--file={config.output}", f"--directory={root}", "--exclude=./dev/*"]))
    run_command(as_root(["mkfs.erofs", "--quiet", str(disk), str(root)]))


def remove_others(folder: Path, place: Path) -> None:
    """Images of older packages and what killed builds left: each takes some hundred megabytes."""
    for path in (*folder.glob("image-*"), *folder.glob("building-*")):
        if path != place:
            shutil.rmtree(path)


@contextmanager
def work_folder() -> Iterator[Path]:
    """Not in the home folder: mmdebstrap's other users have to get there."""
    work = Path(tempfile.mkdtemp(prefix="hyper-kvm-test-"))
    work.chmod(0o711)
    try:
        yield work
    finally:
        remove_tree(work)
