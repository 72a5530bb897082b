"""From a recipe to an image in the store: Debian's packages and pinned wheels, built on this machine."""

import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hyper_kernel.errors import HostError, NotFoundError
from hyper_kernel.host.lock import hold_lock, try_lock
from hyper_kernel.host.space import check_space
from hyper_kernel.oci.disk import remove_tree
from hyper_kernel.oci.layout import DamagedError
from hyper_kernel.oci.mmdebstrap import Bootstrap, find_apt_options, find_archives, read_suite, run_bootstrap
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.oci.umoci import create_image
from hyper_kernel.rootfs.recipe import Recipe
from hyper_kernel.rootfs.wheels import find_debian_python, pack_wheels

#: Told what is going on, in a few words.
Report = Callable[[str], None]

#: The label that says what an image was built from.
RECIPE_LABEL = "org.hyper-kernel.recipe"
#: Grows when this module builds something else from the same recipe.
_BUILDER = "1"
#: The time of every file, in seconds since 1970 (2024-01-01), so that equal contents make equal layers.
_EPOCH = 1704067200
#: Room for a build: packages, wheels, and the image twice.
_NEEDS = 1500 << 20

#: What no package brings into the image.
_EXCLUDES = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)
#: What is left out at the end: caches, logs, and dpkg's copies. Nothing below /dev, /proc, /sys and /tmp: while hooks
#: run, the first three are the host's, and without its settings in /tmp mmdebstrap's last apt-get works on the host.
_RUBBISH = (
    *("/var/cache/debconf/*-old", "/var/cache/ldconfig", "/var/lib/dpkg/*-old", "/var/log/*", "/etc/machine-id"),
    "/usr/lib/python3*/EXTERNALLY-MANAGED",  # a sandbox is thrown away: pip may install beside Debian's packages
)


def build_image(store: ImageStore, recipe: Recipe, report: Report, *, refresh: bool = False) -> Image:
    """The image of a recipe: built now unless the store has it; two builders build once.

    :param report: told what is going on.
    :param refresh: build again even so, which takes in Debian's updates.
    :raise HostError: packages or wheels cannot be had, or there is no room.
    """
    suite, python = read_suite(), find_debian_python()
    key = recipe.digest(_BUILDER, suite, python)
    if not refresh and (image := find_built(store, recipe, key)):
        return image
    with hold_lock(store.build_lock, on_wait=lambda: report("waiting for another build")), _work_folder() as work:
        if not refresh and (image := find_built(store, recipe, key)):
            return image
        check_space(work, _NEEDS, what="building an image")
        layer = _build_layer(recipe, suite, python, work, report)
        report("storing the image")
        with store.new_layout() as layout:
            create_image(
                layout,
                layer,
                env=recipe.env,
                cmd=recipe.cmd,
                cwd=recipe.cwd,
                labels={**recipe.labels, RECIPE_LABEL: key},
                created_by=f"hyper setup: {recipe.name}",
            )
            return store.add(layout, recipe.name)


def find_built(store: ImageStore, recipe: Recipe, key: str) -> Image | None:
    """The image of this recipe's name, when it was built from the same things; None otherwise or where damaged."""
    try:
        image = store.find(recipe.name)
    except DamagedError:
        return None
    return image if image and image.config.labels.get(RECIPE_LABEL) == key else None


def check_kernel(store: ImageStore, image: Image, name: str = "") -> str:
    """The name of the kernelspec to start in an image.

    :param name: one of the image's; its first where empty.
    :raise NotFoundError: the image has no kernel, or none of that name.
    :raise HostError: the image's disk cannot be made.
    """
    kernels, called = sorted(store.get_kernels(image)), (image.names or (image.id,))[0]
    if not kernels:
        raise NotFoundError(
            f"image {called} has no Jupyter kernel", hint="install ipykernel in it, or use hyper/python:latest"
        )
    if name and name not in kernels:
        raise NotFoundError(f"image {called} has no kernel {name}", hint=f"it has {', '.join(kernels)}")
    return name or kernels[0]


def _build_layer(recipe: Recipe, suite: str, python: str, work: Path, report: Report) -> Path:
    wheels, layer = work / "wheels.tar", work / "layer.tar"
    with ThreadPoolExecutor(max_workers=1) as pool:
        archives = pool.submit(find_archives, suite)
        report("fetching wheels")
        pack_wheels(recipe.requirements, python, wheels, epoch=_EPOCH)
        config = Bootstrap(
            suite=suite,
            archives=archives.result(),
            apt_options=(*find_apt_options(), 'Acquire::Languages "none"'),
            packages=recipe.packages,
            excludes=_EXCLUDES,
            hooks=hooks(wheels, python, recipe),
            output=layer,
        )
    run_bootstrap(config, report=report, scratch=work, epoch=_EPOCH)
    if not layer.exists():
        raise HostError("mmdebstrap made no archive", hint="run hyper setup again")
    return layer


def hooks(wheels: Path, python: str, recipe: Recipe) -> tuple[str, ...]:
    """What is done to the root file system, as mmdebstrap's hooks: shell commands, ``$1`` is the root."""
    library = f"/usr/lib/python{python} /usr/lib/python3/dist-packages /usr/local/lib/python{python}"
    return (
        f"tar-in {shlex.quote(str(wheels))} /",
        f'mkdir -p "$1"{shlex.quote(recipe.cwd)}',
        # Valid for good, whatever becomes of the files' times: compiling at each start takes minutes under emulation.
        f'chroot "$1" python3 -m compileall -q -f -j0 --invalidation-mode unchecked-hash {library}',
        *(f'chroot "$1" env HOME=/root sh -c {shlex.quote(command)}' for command in recipe.run),
        # SECURITY: guests can read all of these, and they tell of the host: its name, its resolver, its proxies and
        # its sources, which may carry a user's name and password.
        'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"',
        'sed -i "s#://[^/@ ]*@#://#" "$1/etc/apt/sources.list"',
        'printf "127.0.0.1 localhost\\n::1 localhost\\n" > "$1/etc/hosts"',
        "rm -rf " + " ".join(f'"$1"{path}' for path in _RUBBISH),
        ': > "$1/etc/machine-id"',
    )


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder below TMPDIR for one build; takes away those of builds that were killed.

    Not in the store: mmdebstrap's other users have to get there, and a home may be closed to them.
    """
    prefix = f"hyper-image-{os.getuid()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with try_lock(left / "lock") as dead:
            if dead:
                remove_tree(left)
    work = Path(tempfile.mkdtemp(prefix=prefix))
    work.chmod(0o711)
    try:
        with hold_lock(work / "lock"):
            yield work
    finally:
        remove_tree(work)
