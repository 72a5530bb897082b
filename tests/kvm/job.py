"""The job: a read-only disk with this checkout, the Python packages its tests need, the guest and the base image."""

import compileall
import os
import py_compile
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from hyper_kernel.host.command import run_command
from hyper_kernel.host.lock import hold_lock, try_lock
from hyper_kernel.host.space import check_space
from hyper_kernel.oci.store import Image
from hyper_kernel.rootfs.debian import unpack
from hyper_kernel.rootfs.guest import GuestFiles

CHECKOUT = Path(__file__).parents[2]
CODE = ("hyper_kernel", "guest", "tests", "pyproject.toml")
#: What the tests import; what these need goes with them.
DISTRIBUTIONS = ("pytest", "pytest-timeout", "qemu.qmp", "jupyter-client", "mistune", "nh3")
#: The program whole, and what the benchmarks import beside it.
BENCH_DISTRIBUTIONS = ("hyper-kernel", "psutil")
#: The modules that the vsock contract's guest is made of, see tests/contract/vsock_linux.py.
GUEST_MODULES = re.compile(r"/modules\.builtin$|/kernel/(drivers/virtio|net/vmw_vsock)/")
NEEDS = 300 << 20


@contextmanager
def open_job(
    folder: Path, guest: GuestFiles, image: Image, arguments: list[str], distributions: tuple[str, ...]
) -> Iterator[Path]:
    """The job's disk, while the context lasts.

    :param folder: what is made goes below it; best on the same file system as the guest and the image.
    :param arguments: a Python module to run, and its arguments.
    :param distributions: what it needs.
    :raise HostError: there is no room, or mkfs.erofs fails.
    """
    remove_dead(folder)
    check_space(folder, NEEDS + image.size + image.disk.stat().st_size, what="making the job of the outer machine")
    with tempfile.TemporaryDirectory(prefix="job-", dir=folder) as work, hold_lock(Path(work) / "lock"):
        stage = Path(work) / "job"
        stage.mkdir()
        shutil.copy(Path(__file__).with_name("run.sh"), stage)
        (stage / "arguments").write_text(shlex.join(arguments))
        add_code(stage / "code")
        add_packages(stage / "packages", distributions)
        add_guest(stage, guest)
        add_image(stage / "home/data/images", image)
        disk = Path(work) / "job.erofs"
        run_command(["mkfs.erofs", "--quiet", "--all-root", str(disk), str(stage)], hint="install erofs-utils")
        yield disk


def remove_dead(folder: Path) -> None:
    """Jobs of runs that were killed: each takes most of a gigabyte."""
    for left in folder.glob("job-*"):
        with try_lock(left / "lock") as is_dead:
            if is_dead:
                shutil.rmtree(left, ignore_errors=True)


def add_code(code: Path) -> None:
    code.mkdir()
    skipped = shutil.ignore_patterns("__pycache__", ".*", "outside")
    for name in CODE:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, code / name, ignore=skipped)
        else:
            shutil.copy(CHECKOUT / name, code)
    compile_all(code)


def add_packages(packages: Path, distributions: tuple[str, ...]) -> None:
    for name in find_needed(distributions):
        for file in distribution(name).files or ():
            if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pth":
                continue  # scripts, what is compiled anew, and where this checkout is
            (packages / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), packages / file)
    compile_all(packages)


def find_needed(names: tuple[str, ...]) -> set[str]:
    """Distributions and what they need, whatever that needs included."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            needed = map(Requirement, distribution(name).requires or ())
            left += [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
    return found


def compile_all(folder: Path) -> None:
    """Here, since compiling takes the emulated machine ten times as long; valid for good, as the disk is read-only."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, invalidation_mode=mode, stripdir=folder, prependdir="/")


def add_guest(stage: Path, guest: GuestFiles) -> None:
    """What sandboxes boot from; and its kernel laid out like an unpacked package, for the contract's guest."""
    place = stage / "home/data/guest" / guest.version
    shutil.copytree(guest.kernel.parent, place, copy_function=link_or_copy)
    (place.parent / "current").symlink_to(guest.version)
    package = max(
        (guest.kernel.parents[1] / "packages").glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime
    )
    unpack(package, stage / "kernel", GUEST_MODULES.search)
    release = next((stage / "kernel/lib/modules").iterdir()).name
    (stage / "kernel/boot").mkdir()
    (stage / f"kernel/boot/vmlinuz-{release}").symlink_to(f"/job/home/data/guest/current/{guest.kernel.name}")


def add_image(store: Path, image: Image) -> None:
    """The base image and its disk, as ``ImageStore`` keeps them."""
    home = image.disk.parent
    shutil.copytree(home, store / "images" / home.name, symlinks=True, copy_function=link_or_copy)
    shutil.copytree(home / "blobs", store / "blobs", copy_function=link_or_copy)
    shutil.copy(home.parents[1] / "names.json", store)


def link_or_copy(source: str, target: str) -> None:
    """Large files, read once: a link where that works."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
