"""The wheel, installed by pip into a fresh environment beside JupyterLab: all is there, works, and no node runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from desk import SANDBOXES, TIER, Desk
from lab import SLOW_MS, NotebookPage, start_lab
from playwright.sync_api import expect

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
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))}
        self.env |= {"PATH": f"{tools}:{self.bin}:/usr/bin:/bin:/usr/sbin", "HOME": str(root)}
        self.env |= {"JUPYTER_DATA_DIR": str(root / "share"), "HYPER_HOME": os.environ["HYPER_HOME"]}
        self.env |= {"PIP_CACHE_DIR": pip_cache(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)

    def run(self, command: str, *words: str | Path) -> str:
        """What a command of the environment prints, errors among it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run([self.bin / command, *words], env=self.env, cwd="/", **pipes)
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


@pytest.fixture(scope="module")
def fresh(server, wheel, tmp_path_factory):
    """It has the sandboxes' home of all."""
    fresh = Environment(tmp_path_factory.mktemp("fresh"))
    # The versions that the tests run with, which pip has in its cache.
    pins = ROOT / ".ci/requirements.txt"
    fresh.run("pip", "install", "--quiet", "--no-compile", "--prefer-binary", "-c", pins, wheel, "jupyterlab")
    return fresh


def test_pip_installs_all_of_it_without_node(fresh):
    # Afterwards JupyterLab itself asks yarn for its settings, where there is a node.
    assert not fresh.calls.exists(), fresh.calls.read_text()
    assert re.search(r"hyper-kernel v[\d.]+ .*enabled.* .*OK", fresh.run("jupyter", "labextension", "list"))
    servers = fresh.run("jupyter", "server", "extension", "list")
    assert re.search(r"jupyter_ext .*enabled", servers)
    assert re.search(r"jupyter_ext .*OK", servers)
    fresh.run("hyper", "kernelspec", "install")
    assert re.search(r"hyper-python +/", fresh.run("jupyter", "kernelspec", "list"))


def test_a_person_picks_it_there(fresh, browser, tmp_path):
    fresh.run("hyper", "kernelspec", "install")
    (tmp_path / "share").symlink_to(fresh.env["JUPYTER_DATA_DIR"])
    context = browser.new_context()
    with start_lab(tmp_path, command=fresh.bin / "jupyter", env=fresh.env) as lab:
        desk = Desk(NotebookPage(context.new_page(), lab, "unused.ipynb"))
        desk.open_launcher()
        desk.card("Hyper Python").click()
        expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
        desk.notebook.cell(0).locator(".cm-content").press_sequentially("import os; print(os.getcwd())")
        expect(desk.run(0)).to_have_text("/work", timeout=SLOW_MS)
        desk.show(SANDBOXES)
        expect(desk.panel.get_by_text("1 sandbox runs")).to_be_visible(timeout=SLOW_MS)
        lab.shut_down_all()
        context.close()
