"""What the suites run in: an environment with their plugins, their unpacked sources, a home of their own."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from hyper_kernel.paths import find_paths

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
CACHE = ROOT / "build/outside"
REQUIREMENTS = FOLDER / "requirements.txt"


def make_environment() -> Path:
    """An environment that has all of the project's and the suites' plugins; its Python. Made once.

    The plugins would change how the project's own tests run, so they are kept out of its environment.
    """
    venv, mark = CACHE / "venv", CACHE / "venv/requirements.txt"
    python = venv / "bin/python"
    if mark.exists() and mark.read_text() == REQUIREMENTS.read_text():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    # site.addsitedir, unlike a bare line, also reads that folder's .pth files: the project is installed editable.
    base, own = sysconfig.get_path("purelib"), sysconfig.get_path("purelib", vars={"base": str(venv)})
    (Path(own) / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--ignore-installed", "-r", REQUIREMENTS], check=True)
    mark.write_text(REQUIREMENTS.read_text())
    return python


def unpack(sdist: str, target: Path) -> Path:
    """The unpacked source distribution ``package==version``; it is downloaded once."""
    package, version = sdist.split("==")
    archive = CACHE / f"{package}-{version}.tar.gz"
    if not archive.exists():
        # Only this package from source: for all of them pip would build their build tools.
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*download, "--no-binary", package, "--dest", CACHE, sdist], check=True)
    shutil.unpack_archive(archive, target)
    return target / f"{package}-{version}"


def load_cpython_futures() -> ModuleType:
    """CPython's ``test.test_concurrent_futures``: this Python's own, or that of Debian's package of its version."""
    name = "test.test_concurrent_futures"
    if importlib.util.find_spec(name):
        return importlib.import_module(name)
    version = "{}.{}".format(*sys.version_info[:2])
    path = CACHE / f"cpython/usr/lib/python{version}/test/test_concurrent_futures.py"
    if not path.exists():
        subprocess.run(["apt-get", "download", f"libpython{version}-testsuite"], cwd=CACHE, check=True)
        (package,) = CACHE.glob(f"libpython{version}-testsuite_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, CACHE / "cpython"], check=True)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def make_home(root: Path) -> Path:
    """A ``HYPER_HOME`` with the guest files and images of this machine."""
    data = find_paths().data
    assert (data / "guest/current").exists(), "run: hyper setup"
    root.mkdir()
    (root / "data").symlink_to(data)
    return root


def environment(python: Path, home: Path) -> dict[str, str]:
    """What a suite finds in its environment: its commands first, our kernelspecs, nothing of the caller's Jupyter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTEST", "IPYTHON"))}
    commands = [str(python.parent), str(Path(sys.executable).parent), kept["PATH"]]
    return kept | {
        "PATH": os.pathsep.join(commands),
        "HYPER_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, (kept.get("PYTHONPATH"), str(FOLDER)))),  # for time_limits
        "JUPYTER_PATH": f"{sys.prefix}/share/jupyter",
        "IPYTHONDIR": str(home / "ipython"),
    }
