"""The ladder: a JupyterLab server with sandboxes of its own, a browser, a page, an open notebook."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from canary import start_canary
from desk import Desk
from lab import NotebookPage, start_lab
from pictures import Pictures
from playwright.sync_api import Page, sync_playwright

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from hyper_kernel.rootfs.guest import build_guest

CHROMIUM = "/usr/bin/chromium"
#: The pages that are open, and what each has said on its console.
_OPEN: dict[Page, list[str]] = {}


def pytest_addoption(parser):
    parser.addoption("--pictures", type=Path, metavar="DIR", help="write the README's pictures into this folder")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A JupyterLab of the tests' own, whose sandboxes have a ``HYPER_HOME`` of their own with this machine's images."""
    root, data = tmp_path_factory.mktemp("lab"), find_paths().data
    build_guest(find_paths(), lambda what, done, total: None)
    (root / "hyper").mkdir()
    (root / "hyper/data").symlink_to(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPER_HOME", str(root / "hyper"))
        patch.setenv("JUPYTER_DATA_DIR", str(root / "share"))
        kernelspec.install()
        with start_lab(root) as server:
            yield server
        assert not Client().sandboxes()
        stop_daemon(find_paths())


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium; as root it can only run without a sandbox of its own."""
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def canary():
    with start_canary() as canary:
        yield canary


@pytest.fixture(scope="session")
def open_notebook(server, browser):
    """A context manager that writes a notebook for a kernel, opens it in a fresh page, and leaves nothing of either."""

    @contextmanager
    def open_notebook(name: str, kernel: str, cells: list[str]):
        server.write(name, kernel, cells)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        said = _OPEN[page] = []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
        yield NotebookPage(page, server, name)
        del _OPEN[page]
        context.close()
        server.shut_down_all()
        for left in server.folder.glob("[!.]*"):
            left.unlink()

    return open_notebook


@pytest.fixture(scope="session")
def open_desk(open_notebook):
    """The same, opened, with what stands around the notebook; its kernel runs in a sandbox."""

    @contextmanager
    def open_desk(name: str, cells: list[str]):
        with open_notebook(name, "hyper-python", cells) as notebook:
            notebook.open()
            yield Desk(notebook)

    return open_desk


@pytest.fixture(scope="session")
def pictures(request):
    return Pictures(request.config.getoption("--pictures", None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """When a test fails, keep what its pages show and said in a folder, and say where."""
    report = yield
    if report.failed and _OPEN:
        folder = Path(tempfile.mkdtemp(prefix=f"browser-{item.originalname}-"))
        for number, (page, said) in enumerate(_OPEN.items()):
            page.screenshot(path=folder / f"page{number}.png")
            (folder / f"console{number}.log").write_text("\n".join(said))
        report.sections.append(("what the page showed and said", str(folder)))
    return report
