"""The wheel, installed by pip into a fresh environment beside JupyterLab: all is enabled, and no node runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What a build of the browser's part would run.
NODE_TOOLS = ("node", "npm", "npx", "jlpm", "yarn", "corepack")

pytestmark = pytest.mark.timeout(600)


class Environment:
    """An environment of Python of its own, and a folder that is first in PATH with stand-ins for node's tools."""

    def __init__(self, root: Path) -> None:
        self.bin, self.calls, tools = root / "venv/bin", root / "calls", root / "tools"
        tools.mkdir()
        for name in NODE_TOOLS:
            (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\nexit 1\n')
            (tools / name).chmod(0o755)
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))}
        self._env |= {"PATH": f"{tools}:{self.bin}:/usr/bin:/bin", "HOME": str(root), "HYPER_HOME": str(root / "hyper")}
        self._env |= {"PIP_CACHE_DIR": pip_cache(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)

    def run(self, command: str, *words: str | Path) -> str:
        """What a command of the environment prints, errors among it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run([self.bin / command, *words], env=self._env, cwd="/", **pipes)
        assert done.returncode == 0, done.stdout
        return done.stdout


def pip_cache() -> str:
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of what ``make labextension`` has built."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, env=os.environ | {"SKIP_JUPYTER_BUILDER": "1"}, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_pip_installs_all_of_it_without_node(wheel, tmp_path):
    fresh = Environment(tmp_path)
    # The versions that the tests run with, which pip has in its cache.
    pins = ROOT / ".ci/requirements.txt"
    fresh.run("pip", "install", "--quiet", "--no-compile", "--prefer-binary", "-c", pins, wheel, "jupyterlab")
    # Afterwards JupyterLab itself asks yarn for its settings, where there is a node.
    assert not fresh.calls.exists(), fresh.calls.read_text()
    assert re.search(r"hyper-kernel v[\d.]+ .*enabled.* .*OK", fresh.run("jupyter", "labextension", "list"))
    servers = fresh.run("jupyter", "server", "extension", "list")
    assert re.search(r"jupyter_ext .*enabled", servers)
    assert re.search(r"jupyter_ext .*OK", servers)
    fresh.run("hyper", "kernelspec", "install")
    assert re.search(r"hyper-python +/", fresh.run("jupyter", "kernelspec", "list"))
