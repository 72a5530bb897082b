"""What JupyterLab shows: types, format, tests, its words for the REST API; nothing built is committed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAB = ROOT / "jupyter_ext/labextension"
BIN = Path(sys.executable).parent
MAX_LINES = 300

built = pytest.mark.skipif(not (LAB / "lib").exists(), reason="make labextension builds it")


def sources() -> list[Path]:
    return sorted(path for path in (LAB / "src").rglob("*.ts*"))


@built
@pytest.mark.parametrize("script", ["check", "test"])
def test_scripts_pass(script: str) -> None:
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["jlpm", "run", script], cwd=LAB, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(LAB)))
def test_module_is_of_the_right_size(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in ("utils", "helpers", "common", "misc", "manager")


def test_types_are_those_of_the_rest_api() -> None:
    schemas = yaml.safe_load((ROOT / "jupyter_ext/rest-api.yml").read_text())["components"]["schemas"]
    types = (LAB / "src/model/types.ts").read_text()
    told = {name: set(re.findall(r"^  (\w+)\??:", body, re.M)) for name, body in _interfaces(types)}
    for name in ("Status", "Sandbox", "Limits", "Image", "Policy", "Change", "Side", "Comparison", "Applied"):
        assert told[name] == set(schemas[name]["properties"]), name
    assert told["Usage"] == set(schemas["Sandbox"]["properties"]["usage"]["properties"])
    assert told["Kernel"] == set(schemas["Sandbox"]["properties"]["kernel"]["properties"])
    assert told["Wish"] <= set(schemas["Wish"]["properties"])


def _interfaces(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^export interface (\w+) \{\n(.*?)^\}", text, re.M | re.S)


def test_deaths_are_told_by_their_names() -> None:
    deaths = set(re.findall(r'^    [A-Z_]+ = "([a-z ]+)"$', (ROOT / "hyper_kernel/sandbox/death.py").read_text(), re.M))
    told = set(re.findall(r"'([a-z ]+)'", (LAB / "test/explain.test.ts").read_text()))
    assert deaths and deaths <= told


def test_versions_agree() -> None:
    package = json.loads((LAB / "package.json").read_text())
    assert f'version = "{package["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_every_plugin_with_settings_has_its_schema() -> None:
    plugins = {name for path in sources() for name in re.findall(r"id: 'hyper-kernel:(\w+)'", path.read_text())}
    schemas = {path.stem: json.loads(path.read_text()) for path in (LAB / "schema").glob("*.json")}
    assert set(schemas) <= plugins
    assert all(schema["additionalProperties"] is False for schema in schemas.values())


def test_nothing_that_was_built_is_committed() -> None:
    names = subprocess.run(["git", "ls-files", LAB], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not re.search(r"node_modules|/lib/|\.js\.map|tsbuildinfo", names)
    assert "http" not in (LAB / "yarn.lock").read_text().replace("http-", "")
