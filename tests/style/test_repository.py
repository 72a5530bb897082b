"""The repository itself: floors, sizes, names, types and lint."""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hyper_kernel"
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 60

#: A unit imports only units on lower floors (and itself). The same table stands in hyper_kernel/README.md.
FLOORS = {
    12: {"magics"},
    11: {"cli", "executor"},
    10: {"jupyter", "session"},
    9: {"client"},
    8: {"daemon"},
    7: {"shim"},
    6: {"template"},
    5: {"sandbox"},
    4: {"rootfs", "agent", "channels"},
    3: {"qemu", "vsock", "oci", "policy", "review", "mounts"},
    2: {"spec", "host", "hypervisor"},
    1: {"limits", "paths", "link", "values"},
    0: {"errors", "wire", "__init__"},
}
FLOOR_OF = {unit: floor for floor, units in FLOORS.items() for unit in units}

#: Third-party packages, each confined to the units that need it.
CONFINED = {
    "qemu": {"qemu"},
    "nh3": {"policy"},
    "mistune": {"policy"},
    "tornado": {"daemon"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "traitlets": {"jupyter"},
    "jupyter_client": {"jupyter", "session"},
    "zmq": {"session"},
    "IPython": {"magics"},
    "cloudpickle": {"executor"},
    "nbclient": {"cli"},
    "nbconvert": {"cli"},
    "nbformat": {"cli"},
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager", "util"}


def modules() -> list[Path]:
    return sorted(
        [path for folder in ("hyper_kernel", "guest") for path in (ROOT / folder).rglob("*.py")] + extension()
    )


def extension() -> list[Path]:
    """The Jupyter server's extension, without what belongs to the browser."""
    return [path for path in (ROOT / "jupyter_ext").rglob("*.py") if "labextension" not in path.parts]


def imports_of(path: Path) -> list[str]:
    """Dotted names; ``from a import b`` is ``a.b``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_of_the_right_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    assert path.stem not in FORBIDDEN_NAMES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_the_floors(path: Path) -> None:
    unit = unit_of(path)
    assert unit in FLOOR_OF, f"put {unit} on a floor"
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "hyper_kernel" and rest and rest[0] in FLOOR_OF and rest[0] not in (unit, "__init__"):
            assert FLOOR_OF[rest[0]] < FLOOR_OF[unit], f"{unit} (floor {FLOOR_OF[unit]}) imports {name}"
        if top in CONFINED:
            assert unit in CONFINED[top], f"{unit} imports {top}"


def test_guest_imports_only_the_standard_library_and_wire() -> None:
    for path in (ROOT / "guest").rglob("*.py"):
        for name in imports_of(path):
            own = name.startswith(("guest.", "hyper_kernel.wire"))
            assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_extension_imports_only_what_doors_hold() -> None:
    """It is a door: it knows hyperd by its client, and nothing of what hyperd is made of."""
    for path in extension():
        for name in imports_of(path):
            unit = name.removeprefix("hyper_kernel.").split(".")[0]
            mine = not name.startswith("hyper_kernel.") or unit in ("client", "spec", "errors", "paths", "__version__")
            assert mine or name.startswith("hyper_kernel.jupyter.wishes"), f"{path.name} imports {name}"


def test_floors_table_stands_in_the_readme() -> None:
    readme = (PACKAGE / "README.md").read_text()
    for unit in FLOOR_OF:
        if unit != "__init__":
            assert f"`{unit}" in readme, f"hyper_kernel/README.md does not name {unit}"


@pytest.mark.parametrize("folder", ["hyper_kernel", "guest", "jupyter_ext", "images", "notebooks", "tests"])
def test_folder_opens_with_a_map(folder: str) -> None:
    lines = (ROOT / folder / "README.md").read_text().splitlines()
    assert 5 < len(lines) < 120


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    """What is committed speaks of the project alone."""
    words = ["/" + "work/main", "/" + "root/", "deb." + "debian.org", "pypi" + ".org", "registry." + "npmjs"]
    for name in git("ls-files").splitlines():
        text = (ROOT / name).read_bytes()
        for word in words:
            assert word.encode() not in text, f"{name} holds {word}"


def test_names_of_test_files_are_unique() -> None:
    """pytest imports a test file by its base name: two of one name end the whole run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_requirements_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / ".ci/requirements.txt").read_text().lower().replace("_", "-")
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["test"], *extras["lab"]]:
        name = requirement.split(">")[0].lower()
        assert f"\n{name}==" in f"\n{pinned}", f"{name} is not pinned"


def git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff", "format", "mypy"],
)
def test_check_passes(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
