"""The system image's folder: Debian's Python, cut down, and the guest's sources, compiled."""

import re
from collections.abc import Mapping
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import run_command
from hyper_kernel.rootfs.debian import Apt, Package, unpack

#: Libraries that the interpreter, or one of the extension modules in use, links against.
_LIBRARIES = ("libc6", "libgcc-s1", "zlib1g", "libexpat1", "libffi", "liblzma", "libbz2")
#: Mount points; the image itself is read-only.
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "lower", "scratch", "image")
#: Parts of the standard library that no guest needs.
_UNNEEDED = re.compile(
    r"/python3[^/]*/(test|tkinter|turtledemo|idlelib|lib2to3|ensurepip|distutils|pydoc_data|venv|unittest|sqlite3"
    r"|curses|dbm|xmlrpc|wsgiref|config-[^/]*|__pycache__)/"
    r"|^usr/share/|^etc/|/gconv/|/(libBrokenLocale|libnss_|libmemusage|libpcprofile|libthread_db)[^/]*$"
)
_LOADER = "lib64/ld-linux-x86-64.so.2"


def find_python(apt: Apt) -> list[Package]:
    """The packages that Python in the system image is made of.

    :raise HostError: apt does not know Python's packages.
    """
    (meta,) = apt.find(["python3-minimal"])
    names = [name for name in meta.depends if re.fullmatch(r"python3\.\d+-minimal", name)]
    if not names:
        raise HostError("the package python3-minimal depends on no Python", hint="use Debian 12 or later")
    version = names[0].removesuffix("-minimal")
    pythons = [names[0], f"lib{version}-minimal", f"lib{version}-stdlib"]
    known = apt.find([*pythons, "libc6"])
    libraries = {needed for package in known for needed in package.depends if needed.startswith(_LIBRARIES)}
    return [*known[:-1], *apt.find(sorted(libraries))]


def fill_system(
    folder: Path, archives: list[Path], sources: Mapping[str, bytes], modules: Mapping[str, Mapping[str, bytes]]
) -> list[str]:
    """Fill the system image's folder.

    :param folder: empty.
    :param archives: of the packages that :func:`find_python` names.
    :param sources: path below Python's library to content of each guest source.
    :param modules: the kernel modules the agent loads, in order, for each folder that it loads at once.
    :return: the command that becomes process 1.
    :raise HostError: a package is not as expected.
    """
    for archive in archives:
        unpack(archive, folder, _is_needed)
    for name in _FOLDERS:
        (folder / name).mkdir()
    for name in ("lib", "lib64"):  # since Debian 13 packages carry usr/ alone, and base-files the links
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    for place, those in modules.items():
        (folder / place).mkdir()
        for number, (name, content) in enumerate(those.items()):
            (folder / place / f"{number:02}-{name}.ko").write_bytes(content)
    interpreter = _find_one(folder, "usr/bin/python3.*")
    library = folder / "usr/lib" / interpreter.name
    for path, content in sources.items():
        (library / path).parent.mkdir(parents=True, exist_ok=True)
        (library / path).write_bytes(content)
    _compile(folder, interpreter, library)
    return [f"/usr/bin/{interpreter.name}", "-I", "-S", "-m", "guest.init"]


def _is_needed(path: str) -> bool:
    return not _UNNEEDED.search(path)


def _compile(folder: Path, interpreter: Path, library: Path) -> None:
    """Compile with the image's own Python: the host's may be another. Valid for good, whatever the files' times."""
    loader = folder / _LOADER
    libraries = sorted({str(file.parent) for file in folder.rglob("lib*.so*") if "x86_64-linux-gnu" in file.parts})
    run_command(
        [
            *(str(loader), "--library-path", ":".join(libraries), str(interpreter)),
            *("-S", "-m", "compileall", "-q", "-o", "0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(folder), "-p", "/", str(library)),
        ],
        env={"PYTHONHOME": str(folder / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""},
        hint="report this with the lines above",
    )


def _find_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise HostError(f"the unpacked packages have no {pattern}", hint="use Debian 12 or later")
    return found[0]
