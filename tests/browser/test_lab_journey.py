"""A person's way through JupyterLab with notebooks in sandboxes: pick, run, plot, answer, debug, interrupt, stop."""

import re

import pytest
from desk import FILES, RUNNING, SANDBOXES, TIER, Desk
from lab import SLOW_MS, NotebookPage
from playwright.sync_api import expect

from hyper_kernel.client import Client
from hyper_kernel.spec import ProcessSpec, SandboxSpec

CELLS = {
    "where": """
import os, platform

print("Linux", platform.release(), "with", os.listdir("."), "in", os.getcwd())""",
    "plot": """
import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(0, 12, 400)
fig, ax = plt.subplots(figsize=(7.5, 2.3))
for decay in (4, 8, 16):
    ax.plot(x, np.sin(2 * x) * np.exp(-x / decay), label=f"decay {decay}")
ax.legend(loc="upper right");""",
    "slider": """
import ipywidgets as widgets

slider = widgets.IntSlider(3, max=20, description="Speed")
told = widgets.Label("The kernel has 3")
slider.observe(lambda change: setattr(told, "value", f"The kernel has {change.new}"), "value")
display(slider, told)""",
    "input": "print('Hello', input('Your name? '))",
    "debug": """
def area(width, height):
    product = width * height
    return product

print("area", area(6, 7))""",
    "endless": """
import time

print("working", flush=True)
while True:
    time.sleep(0.1)""",
    "known": "print('it knows x' if 'x' in globals() else 'it knows nothing')",
    "removed": "from IPython.display import HTML\nHTML('<p>kept</p><script>alert(1)</script>')",
    "look": "print(open('/tmp/by-hand').read())",
    "log": "get_ipython().kernel.log.error('said to its log')",
}
AT = {name: number for number, name in enumerate(CELLS)}
NAME = "waves.ipynb"


@pytest.fixture(scope="module")
def desk(open_desk):
    with open_desk(NAME, [cell.strip() for cell in CELLS.values()]) as desk:
        yield desk


def test_launcher_opens_a_notebook_in_a_sandbox(open_notebook, pictures):
    with open_notebook("unused.ipynb", "hyper-python", []) as notebook:
        desk = Desk(notebook)
        desk.open_launcher()
        expect(desk.card("New Sandbox…")).to_be_visible()
        expect(desk.card("Hyper Python").get_by_role("img")).to_have_js_property("complete", True)
        pictures.take("lab-launcher", desk.page.locator(".jp-Launcher-section").first, margin=12)
        desk.card("Hyper Python").click()
        expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
        code = desk.notebook.cell(0).locator(".cm-content")
        code.press_sequentially("print(6 * 7)")
        code.press("Shift+Enter")
        expect(desk.notebook.output(0)).to_have_text("42", timeout=SLOW_MS)


def test_plot(desk, pictures):
    desk.run(AT["where"])
    picture = desk.run(AT["plot"]).get_by_role("img")
    expect(picture).to_have_attribute("src", re.compile("^data:image/png"), timeout=SLOW_MS)
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 500
    expect(desk.notebook.output(AT["where"])).to_have_text(re.compile(r"^Linux .* with \['waves.ipynb'\] in /work"))


def test_slider_by_mouse(desk):
    output = desk.run(AT["slider"])
    handle, track = output.locator(".noUi-handle"), output.locator(".noUi-target")
    expect(output.get_by_text("The kernel has 3")).to_be_visible(timeout=SLOW_MS)
    handle.scroll_into_view_if_needed()
    end = track.bounding_box()
    handle.hover(force=True)
    desk.page.mouse.down()
    desk.page.mouse.move(end["x"] + end["width"] / 2, end["y"], steps=5)
    desk.page.mouse.up()
    expect(output.get_by_text("The kernel has 10")).to_be_visible(timeout=SLOW_MS)


def test_input(desk):
    output = desk.run(AT["input"])
    question = output.get_by_role("textbox")
    question.fill("Ada", timeout=SLOW_MS)
    question.press("Enter")
    expect(output).to_contain_text("Hello Ada", timeout=SLOW_MS)


def test_debugger_stops_shows_and_goes_on(desk):
    bug = desk.notebook.panel.locator(".jp-DebuggerBugButton")
    bug.click(timeout=SLOW_MS)
    cell, side = desk.notebook.cell(AT["debug"]), desk.page.locator(".jp-DebuggerSidebar")
    # The first element of a gutter only keeps its width.
    line = cell.locator(".cm-breakpoint-gutter .cm-gutterElement").nth(3)
    line.click(timeout=SLOW_MS)
    expect(line.locator(".cm-breakpoint-icon")).to_have_count(1, timeout=SLOW_MS)
    output = desk.run(AT["debug"])
    expect(side.locator(".jp-DebuggerCallstack-body")).to_contain_text("area", timeout=SLOW_MS)
    side.get_by_role("combobox").select_option("Locals")
    variables = side.locator(".jp-DebuggerVariables")
    for value in ("width 6", "height 7", "product 42"):
        expect(variables).to_contain_text(re.compile(value.replace(" ", r":?\s*")), timeout=SLOW_MS)
    expect(output).not_to_contain_text("area 42")
    side.locator('[data-command="debugger:continue"]').click()
    expect(output).to_contain_text("area 42", timeout=SLOW_MS)
    bug.click()
    expect(cell.locator(".cm-breakpoint-gutter")).to_have_count(0, timeout=SLOW_MS)
    desk.hide("jp-debugger-sidebar")


def test_shield_and_status_bar_say_where_it_runs(desk):
    desk.run(AT["removed"])
    expect(desk.shield).to_have_text(TIER)
    expect(desk.status).to_have_text(re.compile(r"^Sandbox: \w+\d.* of 512 MiB$"), timeout=SLOW_MS)
    desk.shield.click()
    for words in ("in a virtual machine of its own", "hyper/python", "a copy; changes come back by review"):
        expect(desk.popover).to_contain_text(words)
    expect(desk.popover.get_by_role("meter", name="Memory")).to_have_attribute(
        "aria-valuetext", re.compile(r"\d+ of 512 MiB"), timeout=SLOW_MS
    )
    desk.popover.get_by_text(re.compile(r"\d things? removed")).click(timeout=SLOW_MS)
    expect(desk.popover).to_contain_text("1 × script")
    desk.page.keyboard.press("Escape")
    expect(desk.popover).to_have_count(0)
    expect(desk.shield).to_be_focused()
    desk.status.press("Enter")
    expect(desk.popover).to_be_focused()
    desk.popover.get_by_role("button", name="All sandboxes").click()
    expect(desk.popover).to_have_count(0)
    expect(desk.row(NAME)).to_contain_text("hyper/python")


def test_the_pictures_of_a_notebook_and_of_the_panel(desk, pictures):
    """The notebook in front in the panel, and what is known of it beside its plot; in both themes."""
    row = desk.row(NAME)
    expect(row.get_by_role("meter", name="Memory")).to_have_attribute("aria-valuetext", re.compile("of 512 MiB"))
    expect(row).to_contain_text("1 × script")
    desk.notebook.panel.locator(".jp-WindowedPanel-outer").evaluate("notebook => notebook.scrollTop = 0")
    desk.shield.click()
    expect(desk.popover).to_be_visible()
    pictures.take("lab-notebook", desk.page)
    desk.page.keyboard.press("Escape")
    with desk.theme("dark"):
        expect(desk.panel).to_have_css("color", re.compile(r"^rgba?\(2\d\d, 2\d\d, 2\d\d"))


def test_interrupt(desk):
    output = desk.run(AT["endless"])
    expect(output).to_contain_text("working", timeout=SLOW_MS)
    desk.tool("notebook:interrupt-kernel").click()
    expect(output).to_contain_text("KeyboardInterrupt", timeout=SLOW_MS)
    desk.notebook.wait_until_run()  # a kernel drops what is asked of it before it has told of the error
    output = desk.run(AT["endless"])
    expect(output).to_have_text("working", timeout=SLOW_MS)
    desk.act(NAME, "Interrupt")
    expect(output).to_contain_text("KeyboardInterrupt", timeout=SLOW_MS)


def test_terminal_is_inside_the_sandbox(desk):
    with desk.page.expect_websocket(lambda socket: "/hyper/terminals/websocket/" in socket.url) as opened:
        desk.act(NAME, "Terminal")
    expect(desk.tab(f"Terminal in {NAME}")).to_have_attribute("aria-selected", "true")
    desk.page.locator(".jp-Terminal:visible").click(timeout=SLOW_MS)
    with opened.value.expect_event("framereceived", lambda frame: "written by 42" in str(frame), timeout=SLOW_MS):
        desk.page.keyboard.type("echo written by $((40 + 2)) > /tmp/by-hand; cat /tmp/by-hand\n")
    desk.bring(NAME)
    expect(desk.run(AT["look"])).to_have_text("written by 42", timeout=SLOW_MS)
    desk.close_tab(f"Terminal in {NAME}")


def test_logs_of_a_notebook(desk):
    desk.run(AT["log"])
    desk.notebook.wait_until_run()
    desk.act(NAME, "Logs")
    logs = desk.page.locator(".hyper-Logs")
    if "said" not in logs.inner_text():  # it comes beside the cell's own messages
        desk.page.locator(".jp-MainAreaWidget", has=logs).get_by_role("button", name="Refresh").click()
    expect(logs).to_contain_text("said to its log", timeout=SLOW_MS)
    desk.close_tab(f"Logs of {NAME}")


def test_logs_of_a_program(desk):
    client = Client()
    worker = client.create(SandboxSpec(process=ProcessSpec(argv=("sh", "-c", "echo said by $((40 + 2)); sleep 600"))))
    client.start(worker.id)
    desk.act(worker.name, "Logs")
    expect(desk.page.locator(".hyper-Logs")).to_contain_text("said by 42", timeout=SLOW_MS)
    desk.close_tab(f"Logs of {worker.name}")
    client.remove(worker.id, force=True)
    expect(desk.panel.get_by_text("1 sandbox runs")).to_be_visible(timeout=SLOW_MS)


def test_two_notebooks_at_once(desk):
    """Each knows nothing of the other, each shield and the status bar speak of the one in front."""
    desk.server.write("second.ipynb", "hyper-python", ["x = 'of the second'", CELLS["known"], "1 + 1"])
    desk.run(AT["plot"])  # it defines x
    desk.show(FILES)
    desk.page.locator(f"#{FILES}").get_by_role("button", name="Refresh").click()
    desk.page.locator(".jp-DirListing-item", has_text="second.ipynb").dblclick()
    expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
    second = NotebookPage(desk.page, desk.server, "second.ipynb")
    expect(desk.run(1)).to_have_text("it knows nothing", timeout=SLOW_MS)
    desk.bring(NAME)
    expect(desk.run(AT["known"])).to_have_text("it knows x", timeout=SLOW_MS)
    desk.show(SANDBOXES)
    expect(desk.panel.get_by_text("2 sandboxes run")).to_be_visible(timeout=SLOW_MS)
    first, other = desk.row(NAME), desk.row(second.name)
    assert first.get_attribute("data-sandbox") != other.get_attribute("data-sandbox")
    assert {each.id for each in Client().sandboxes()} == {row.get_attribute("data-sandbox") for row in (first, other)}


def test_running_lists_both(desk):
    desk.show(RUNNING)
    side = desk.page.locator(f"#{RUNNING}")
    expect(side.get_by_text("Stop All")).to_be_visible()
    for name in (NAME, "second.ipynb"):
        items = side.locator(".jp-RunningSessions-item").filter(has_text=name)
        sandbox = items.filter(has_text=re.compile("idle|busy"))
        expect(sandbox).to_have_count(1)
        sandbox.get_by_text(name).click()
        expect(desk.tab(name)).to_have_attribute("aria-selected", "true")


def test_stop_from_the_panel(desk):
    desk.act("second.ipynb", "Stop")
    desk.answer("Stop second.ipynb?", "Cancel")
    desk.act("second.ipynb", "Stop")
    desk.answer("Stop second.ipynb?", "Stop")
    expect(desk.panel.get_by_text("1 sandbox runs")).to_be_visible(timeout=SLOW_MS)
    desk.bring("second.ipynb")
    expect(desk.shield).to_have_text("No kernel", timeout=SLOW_MS)
    assert len(Client().sandboxes()) == 1


def test_restart_is_a_fresh_machine(desk):
    desk.bring(NAME)
    expect(desk.run(AT["known"])).to_have_text("it knows x", timeout=SLOW_MS)
    before = Client().sandboxes()[0]
    desk.tool("notebook:restart-kernel").click()
    desk.answer("Restart Kernel?", "Restart")
    expect(desk.run(AT["known"])).to_have_text("it knows nothing", timeout=SLOW_MS)
    (after,) = Client().sandboxes()
    assert after.id == before.id
    assert after.qemu_pid != before.qemu_pid
    expect(desk.shield).to_have_text(TIER)
