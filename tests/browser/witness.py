"""Watches a page of the browser and names the attacks that leave a proof."""

import re
import time
from collections import defaultdict

from attacks import Attack
from canary import Canary
from lab import LabServer
from playwright.sync_api import Error, Page, Request, Route

#: Marks of attacks in the page: custom properties, names of globals, the base of addresses.
_MARKS = """names => {
    const found = [], style = getComputedStyle(document.documentElement);
    for (const name of names) {
        const mark = 'pwned-' + name;
        if (style.getPropertyValue('--' + mark)) found.push([name, 'style of the whole page']);
        if (mark in window || mark in document) found.push([name, 'name of a global']);
        if (document.baseURI.includes('pwn=' + name)) found.push([name, 'base of all addresses']);
    }
    return found;
}"""
#: Which cells' outputs lie over what is not theirs: menus, bars, lists, and, screen by screen, the code of cells.
_COVERS = """() => {
    const cells = [...document.querySelectorAll('.jp-Cell')], found = [];
    const look = (element, part) => {
        const box = element.getBoundingClientRect();
        if (box.bottom < 0 || box.top > innerHeight) return;
        const stack = document.elementsFromPoint(box.left + part * box.width, box.top + box.height / 2);
        for (const over of stack.slice(0, Math.max(stack.indexOf(element), 0)))
            if (over.closest('.jp-OutputArea'))
                found.push([cells.indexOf(over.closest('.jp-Cell')), element.className || element.id]);
    };
    const bars = '#jp-top-panel, .lm-MenuBar-item, #jp-bottom-panel, .jp-SideBar, '
        + '.jp-NotebookPanel-toolbar, .jp-DirListing';
    for (const element of document.querySelectorAll(bars))
        for (const part of [0.02, 0.5, 0.98]) look(element, part);
    const screen = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer');
    for (let top = 0; top < screen.scrollHeight; top += screen.clientHeight) {
        screen.scrollTop = top;
        for (const element of document.querySelectorAll('.jp-InputArea-editor'))
            for (const part of [0.1, 0.9]) look(element, part);
    }
    return found;
}"""


#: How long proofs may take that are expected, in seconds: some renderers are loaded when they are needed.
_LATE_S = 8.0


class Witness:
    """``proofs``: what was seen of each attack, by its name.

    A navigation of the page itself to an attack's address is noted, and does not happen, so that others are seen, too.
    """

    def __init__(self, page: Page, canary: Canary) -> None:
        self._page, self._canary = page, canary
        self._opened: set[str] = set()
        self.proofs: dict[str, set[str]] = defaultdict(set)
        page.context.on("request", self._saw_request)
        page.on("dialog", lambda dialog: dialog.accept())
        page.on("popup", lambda other: other.close())  # which would leave this page in the background, undrawn
        page.route(re.compile("pwn="), self._stay)

    def look_at_page(self, attacks: list[Attack], expected: set[str]) -> None:
        """Wait for what the page is about to do, and for proofs that are expected, then look for marks and requests."""
        self._page.evaluate("address => fetch(address).then(() => true)", f"{self._canary.address}settled")
        deadline = time.monotonic() + _LATE_S
        while not self._find(attacks) >= expected and time.monotonic() < deadline:
            self._page.wait_for_timeout(100)  # proofs come from many places; there is no one event

    def _find(self, attacks: list[Attack]) -> set[str]:
        self.look_for_covers(attacks)
        for name, what in self._page.evaluate(_MARKS, [attack.name for attack in attacks]):
            self.proofs[name].add(what)
        codes = self._page.locator(".jp-InputArea-editor").all_inner_texts()
        for attack, code in zip(attacks, codes[1:], strict=False):
            if code.startswith(f"# pwned-{attack.name}"):
                self.proofs[attack.name].add("overwrites a cell")
        for request in self._canary.requests - self._opened:
            self._saw(request, "request to a stranger")
        return set(self.proofs)

    def look_for_covers(self, attacks: list[Attack]) -> None:
        """Find outputs that lie over what is not theirs; the first cell of the notebook is not an attack."""
        for number, what in self._page.evaluate(_COVERS):
            if 0 < number <= len(attacks):
                self.proofs[attacks[number - 1].name].add(f"covers {what}")

    def look_at_server(self, server: LabServer) -> None:
        """Find terminals that nobody opened, and files that nobody made."""
        for terminal in server.get("terminals"):
            self.proofs[terminal["name"]].add("terminal on the server")
        for path in server.folder.glob("untitled*"):
            self.proofs[path.suffix[1:]].add("file on the server")
            path.unlink()

    def _stay(self, route: Route) -> None:
        request = route.request
        if request.is_navigation_request() and not request.frame.parent_frame:
            self._saw(request.url, "leaves the page")
            route.fulfill(status=204)
        else:
            route.continue_()

    def _saw_request(self, request: Request) -> None:
        if request.is_navigation_request() and self._opens_page(request):
            # A link that the person clicked and that opens a page of its own is what links are for.
            self._opened.add(f"{request.method} {request.url}")
        else:
            self._saw(request.url, f"{request.method} of a {request.resource_type}")

    def _opens_page(self, request: Request) -> bool:
        try:
            return request.frame.page != self._page
        except Error:  # the first request of a page comes before the page
            return True

    def _saw(self, text: str, what: str) -> None:
        for name in re.findall(r"pwn=([\w-]+)", text):
            self.proofs[name].add(what)
