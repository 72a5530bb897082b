"""A notebook's page with what stands around the notebook: JupyterLab's own sidebars, menus and dialogs, and ours."""

import re
from contextlib import contextmanager

from lab import SLOW_MS, TOKEN, NotebookPage
from playwright.sync_api import Locator, Route, expect

#: The size of a page, and so of the README's pictures.
SIZE = {"width": 1280, "height": 800}
SANDBOXES, RUNNING, FILES = "hyper-kernel-panel", "jp-running-sessions", "filebrowser"
#: Where a sandbox is as strong as this host can make it.
TIER = re.compile("^Sandbox: (software|hardware)$")


class Desk:
    """What a person finds on the page of an open notebook, by the words that are written there."""

    def __init__(self, notebook: NotebookPage) -> None:
        self.notebook, self.page, self.server = notebook, notebook.page, notebook.server
        self.page.set_viewport_size(SIZE)
        self.panel = self.page.locator(f"#{SANDBOXES}")
        self.popover = self.page.get_by_role("dialog", name="Where this notebook runs")
        self.status = self.page.locator("#jp-main-statusbar .hyper-Shield-button")
        self.changes = self.page.locator(".hyper-Review:visible")
        self.problem = self.page.locator(".jp-Dialog-content", has=self.page.get_by_role("button", name="Dismiss"))

    @property
    def shield(self) -> Locator:
        """That of the notebook in front."""
        return self.notebook.panel.locator(".hyper-Shield-button")

    def open_launcher(self) -> None:
        """JupyterLab as it is when nothing is open."""
        self.page.goto(f"{self.server.url}lab?reset&token={TOKEN}")
        self.card("Hyper Python").wait_for(timeout=SLOW_MS)

    def card(self, name: str) -> Locator:
        """A card of the launcher that opens a notebook."""
        return self.page.locator('.jp-LauncherCard[data-category="Notebook"]', has_text=name)

    def run(self, number: int) -> Locator:
        """Run one cell, and do not wait for its end; its output."""
        self.notebook.cell(number).locator(".cm-content").first.press("Control+Enter")
        return self.notebook.output(number)

    def tool(self, command: str) -> Locator:
        """A button of the notebook's toolbar, by the command that it gives."""
        return self.notebook.panel.locator(f'.jp-NotebookPanel-toolbar [data-command="{command}"]')

    def show(self, side: str) -> None:
        """Have a sidebar open."""
        tab = self.page.locator(f'li[data-id="{side}"]')
        if tab.get_attribute("aria-selected") != "true":
            tab.click()
        expect(self.page.locator(f"#{side}")).to_be_visible()

    def hide(self, side: str) -> None:
        """Have a sidebar closed."""
        tab = self.page.locator(f'li[data-id="{side}"]')
        if tab.get_attribute("aria-selected") == "true":
            tab.click()
        expect(self.page.locator(f"#{side}")).to_be_hidden()

    def row(self, title: str) -> Locator:
        """A sandbox in the panel, which is opened."""
        self.show(SANDBOXES)
        row = self.panel.locator(".hyper-Row").filter(has=self.page.get_by_text(title, exact=True))
        head = row.locator(".hyper-Row-head")
        expect(head).to_be_visible(timeout=SLOW_MS)
        if head.get_attribute("aria-expanded") == "false":
            head.click()
        return row

    def act(self, title: str, action: str) -> None:
        """Choose one of the actions on a sandbox in the panel."""
        self.row(title).get_by_role("button", name=action, exact=True).click()

    def dialog(self, title: str) -> Locator:
        """An open dialog, by its title."""
        header = self.page.locator(".jp-Dialog-header", has_text=title)
        return self.page.locator(".jp-Dialog-content").filter(has=header)

    def answer(self, title: str, button: str) -> None:
        """Press a button of a dialog, and wait until it is gone."""
        dialog = self.dialog(title)
        words = re.compile(f"^{re.escape(button)}$")
        dialog.get_by_role("button").filter(has_text=words).click(timeout=SLOW_MS)
        dialog.wait_for(state="detached")

    def tab(self, title: str) -> Locator:
        """What is open in the main area."""
        return self.page.locator("#jp-main-dock-panel").get_by_role("tab", name=title, exact=True)

    def close_tab(self, title: str) -> None:
        """Close what is open in the main area."""
        self.tab(title).locator(".lm-TabBar-tabCloseIcon").click()
        self.tab(title).wait_for(state="detached")

    def bring(self, title: str) -> None:
        """Have a tab of the main area in front."""
        self.tab(title).click()
        expect(self.tab(title)).to_have_attribute("aria-selected", "true")

    @contextmanager
    def theme(self, scheme: str):
        """JupyterLab's light or dark theme, which follows the system's, for a while."""
        self.page.emulate_media(color_scheme=scheme)
        expect(self.page.locator("body")).to_have_attribute(
            "data-jp-theme-light", "true" if scheme == "light" else "false", timeout=SLOW_MS
        )
        self.notebook.wait_until_drawn()
        yield
        self.page.emulate_media(color_scheme="light")
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", "true", timeout=SLOW_MS)


class MadeUp:
    """Sandboxes that are not there: what the page is told of them, and what it asks for."""

    def __init__(self, desk: Desk, sandboxes: list[dict]) -> None:
        self.sandboxes, self.asked, self.actions = sandboxes, 0, []
        desk.page.route(re.compile(r"/hyper/api/v1/sandboxes(\?.*)?$"), self._list)
        desk.page.route(re.compile(r"/hyper/api/v1/sandboxes/[^/]+/actions"), self._act)

    def _list(self, route: Route) -> None:
        self.asked += 1
        route.fulfill(json=self.sandboxes)

    def _act(self, route: Route) -> None:
        ident = route.request.url.split("/")[-2]
        self.actions.append((ident, route.request.post_data_json["action"]))
        self.sandboxes = [each for each in self.sandboxes if each["id"] != ident]
        route.fulfill(status=204)


def make_up(number: int, **changes) -> dict:
    """A sandbox of a program, as the REST API has it."""
    limits = ("cpu_percent", "scratch_mib", "processes", "wall_s", "cell_s", "output_bytes", "output_bytes_per_s")
    return {
        "id": f"{number:064x}",
        "name": f"worker-{number:03}",
        "image": "hyper/python:latest",
        "state": "running",
        "death": "",
        "reason": "",
        "exit_code": -1,
        "tier": "software",
        "activity": "idle",
        "created_s": 1e9,
        "started_s": 1e9,
        "finished_s": 0.0,
        "memory_mib": 512,
        "cpus": 1,
        "limits": dict.fromkeys(limits, 0),
        "usage": {"cpu_percent": 1.5 * (number % 50), "memory_bytes": (60 + number) << 20, "measured_s": 2e9},
        "removed": {},
        "kernel": None,
        "folder": "",
        "files": "none",
        "notes": [],
        **changes,
    }
