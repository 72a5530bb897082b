"""A real JupyterLab, started by its own command, and one of its notebooks as a person sees it in a browser."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import httpx
import nbformat
from playwright.sync_api import Locator, Page, expect

TOKEN = "only-for-this-test"

#: What a person would answer once, so that no pop-up covers the page; and every cell is rendered, seen or not.
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    # The theme is the light one; a page whose system wants it dark gets the dark one.
    "apputils-extension/themes": {"theme": "JupyterLab Light", "adaptive-theme": True},
    "notebook-extension/tracker": {"windowingMode": "none", "recordTiming": False},
    "completer-extension/manager": {"providerTimeout": 60_000},
    "docmanager-extension/plugin": {"autosave": False},
}
#: How long a kernel may take to start or a notebook to run, in milliseconds.
SLOW_MS = 120_000
_JUPYTER = Path(sys.executable).with_name("jupyter")
_TWO_FRAMES = "async () => { for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame); }"
_PIPES = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


class LabServer:
    """A running server: its address, its folder of notebooks, and what it says of itself by its REST API."""

    def __init__(self, url: str, folder: Path, process: subprocess.Popen) -> None:
        self.url, self.folder, self._process = url, folder, process
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"token {TOKEN}"}, timeout=60)

    def get(self, path: str) -> list[dict]:
        """What ``/api/<path>`` answers."""
        return self._http.get(f"api/{path}").raise_for_status().json()

    def kill(self) -> None:
        """End it as it never would itself: nothing is told, nothing is put away."""
        self._process.kill()
        self._process.wait()

    def shut_down_all(self) -> None:
        """End kernels and terminals of all notebooks."""
        for session in self.get("sessions"):
            self._http.delete(f"api/sessions/{session['id']}").raise_for_status()
        for terminal in self.get("terminals"):
            self._http.delete(f"api/terminals/{terminal['name']}").raise_for_status()

    def write(self, name: str, kernel: str, cells: list[str]) -> None:
        """A notebook of code cells for a kernel (its kernelspec's name), in the server's folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        (self.folder / name).write_text(nbformat.writes(notebook))

    def saved(self, name: str) -> list[dict]:
        """The code cells of a notebook as it stands on the disk."""
        return json.loads((self.folder / name).read_text())["cells"]


@contextmanager
def start_lab(root: Path, port: int = 0, *, command: Path = _JUPYTER, env: Mapping[str, str] = os.environ):
    """A server with folders of its own below ``root``; yields a :class:`LabServer`, and ends it.

    :param port: zero: any that is free.
    :param command: ``jupyter`` of an environment.
    :param env: what variables it has, beside those folders.
    """
    for name, values in _SETTINGS.items():
        path = root / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folder = root / "notebooks"
    folder.mkdir(exist_ok=True)
    folders = {
        "JUPYTER_CONFIG_DIR": root / "config",
        "JUPYTER_DATA_DIR": root / "share",
        "JUPYTER_RUNTIME_DIR": root / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": root / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": root / "workspaces",
    }
    words = [command, "lab", "--no-browser", "--allow-root"]
    words += [f"--IdentityProvider.token={TOKEN}", f"--notebook-dir={folder}", f"--port={port}"]
    words += ["--ServerApp.ip=127.0.0.1"]
    env = {**env} | {name: str(path) for name, path in folders.items()}
    with (root / "lab.log").open("a", buffering=1) as log, subprocess.Popen(words, env=env, **_PIPES) as process:
        keeper = None
        try:
            server = LabServer(_wait_for_address(process, log), folder, process)
            keeper = threading.Thread(target=log.writelines, args=[process.stderr])
            keeper.start()
            yield server
            if process.poll() is None:
                server.shut_down_all()
        finally:
            process.terminate()
            if keeper:
                keeper.join()


def _wait_for_address(process: subprocess.Popen, log: TextIO) -> str:
    """Read the server's log until it names its address."""
    for line in process.stderr:
        log.write(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+/)lab", line):
            return found[1]
    raise AssertionError(f"JupyterLab did not start: see {log.name}")


class NotebookPage:
    """A notebook that is open in JupyterLab with a running kernel."""

    def __init__(self, page: Page, server: LabServer, name: str) -> None:
        self.page, self.server, self.name = page, server, name
        self.panel = page.locator(".jp-NotebookPanel:visible")

    def open(self) -> None:
        """Open it, alone, and wait until all cells are there and its kernel is idle."""
        self.page.goto(f"{self.server.url}lab/tree/{self.name}?reset&token={TOKEN}")
        expect(self.page.get_by_title("Change kernel for")).to_contain_text("| Idle", timeout=SLOW_MS)
        cells = self.server.saved(self.name)
        expect(self.panel.locator(".jp-Cell"), "all cells").to_have_count(len(cells), timeout=SLOW_MS)

    def cell(self, number: int) -> Locator:
        """The n-th cell, counted from zero."""
        return self.panel.locator(".jp-Cell").nth(number)

    def output(self, number: int) -> Locator:
        """What the n-th cell shows."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def run_all(self) -> None:
        """*Run All Cells*, and wait until the last has run."""
        self.choose("Run", "Run All Cells")
        self.wait_until_run()

    def wait_until_run(self) -> None:
        """No cell waits, and all that had code then have run."""
        prompts = self.panel.locator(".jp-CodeCell .jp-InputPrompt")
        expect(prompts.filter(has_text="[*]:")).to_have_count(0, timeout=SLOW_MS)

    def wait_until_drawn(self) -> None:
        """The page has drawn two frames, so that it has seen what the mouse did, and moved on."""
        self.page.evaluate(_TWO_FRAMES)

    def save(self) -> None:
        """*Save Notebook*, and wait until it is on the disk."""
        with self.page.expect_response(lambda reply: reply.request.method == "PUT" and self.name in reply.url):
            self.choose("File", "Save Notebook")

    def choose(self, menu: str, item: str) -> None:
        """Choose an item of a menu in the bar."""
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=item).first.click()

    def ask_for_help(self, about: str) -> None:
        """Choose what is offered *about* something in the Help menu, if it is, and come back to the notebook."""
        self.page.get_by_role("menuitem", name="Help", exact=True).click()
        item = self.page.get_by_role("menuitem", name=about, exact=True)
        if item.count():
            item.click()
            self.page.get_by_role("tab", name=self.name).click()
        else:
            self.page.keyboard.press("Escape")
