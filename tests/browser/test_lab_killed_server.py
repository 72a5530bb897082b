"""The Jupyter server is killed while a page is open, and started again: the page finds its kernel, and what it said."""

import os

import pytest
from desk import TIER, Desk
from lab import SLOW_MS, NotebookPage, start_lab
from playwright.sync_api import expect

NAME = "long.ipynb"
#: Goes on while no server is there, until it is interrupted. It says nothing while the server is killed: what that had
#: heard, and not passed on, would be lost with it.
LONG = """
import time
for step in range(1000):
    print('step', step, flush=True)
    time.sleep(5 if step == 3 else 0.1)"""
CELLS = ["x = 'alive'", LONG.strip(), "print('x is', x)"]


@pytest.fixture
def start(server, tmp_path):
    """A function that starts a server of this test's own, whose sandboxes are in the home of all."""
    (tmp_path / "share").symlink_to(os.environ["JUPYTER_DATA_DIR"])
    return lambda port=0: start_lab(tmp_path, port)


@pytest.fixture
def page(browser):
    context = browser.new_context()
    yield context.new_page()
    context.close()


def kernels(server):
    return [(each["kernel"]["id"], each["path"]) for each in server.get("sessions")]


def test_a_killed_server_is_found_again_with_all_that_was_said_meanwhile(start, page):
    lost = page.get_by_role("dialog").filter(has_text="Server Connection Error")
    page.add_locator_handler(lost, lambda dialog: dialog.get_by_role("button").last.click())
    with start() as first:
        first.write(NAME, "hyper-python", CELLS)
        notebook = NotebookPage(page, first, NAME)
        notebook.open()
        desk = Desk(notebook)
        desk.run(0)
        expect(desk.run(1)).to_contain_text("step 3", timeout=SLOW_MS)
        before = kernels(first)
        first.kill()
    with start(int(first.url.rsplit(":", 1)[1].strip("/"))) as second:
        assert kernels(second) == before
        with page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=SLOW_MS):
            pass
        expect(notebook.output(1)).to_contain_text("step 30", timeout=SLOW_MS)
        said = notebook.output(1).inner_text().split("\n")
        steps = [line for line in said if line.startswith("step")]
        assert steps == [f"step {number}" for number in range(len(steps))]
        desk.tool("notebook:interrupt-kernel").click()
        expect(notebook.output(1)).to_contain_text("KeyboardInterrupt", timeout=SLOW_MS)
        notebook.wait_until_run()  # a kernel drops what is asked of it before it has told of the error
        expect(desk.run(2)).to_have_text("x is alive", timeout=SLOW_MS)
        expect(desk.shield).to_have_text(TIER)
        second.shut_down_all()
