"""*New Sandbox…*: what may be chosen, what policy refuses, what the notebook then has."""

import re

import pytest
from desk import SANDBOXES, TIER, Desk
from lab import SLOW_MS
from playwright.sync_api import expect

from hyper_kernel.client import Client
from hyper_kernel.paths import find_paths

MEMORY = "import os\nprint(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20)"


@pytest.fixture
def policy():
    """A function that writes hyperd's policy; afterwards there is none."""
    path = find_paths().policy
    yield path.write_text
    path.unlink(missing_ok=True)


@pytest.fixture
def desk(open_notebook):
    with open_notebook("unused.ipynb", "hyper-python", []) as notebook:
        desk = Desk(notebook)
        desk.open_launcher()
        yield desk


def chooser(desk, label):
    return desk.dialog("New sandbox").get_by_label(label, exact=True)


def test_a_choice_is_what_the_notebook_gets(desk, pictures):
    desk.card("New Sandbox…").click()
    expect(chooser(desk, "Image")).to_be_focused(timeout=SLOW_MS)
    expect(chooser(desk, "Image")).to_contain_text("hyper/python")
    expect(chooser(desk, "Memory")).to_contain_text("512 MiB (usual)")
    chooser(desk, "Memory").select_option("256 MiB")
    chooser(desk, "Time for a cell").select_option("30 s")
    chooser(desk, "Files").select_option("no files")
    desk.answer("New sandbox", "Start")
    expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
    desk.shield.click()
    expect(desk.popover).to_contain_text("of 256 MiB", timeout=SLOW_MS)
    expect(desk.popover).to_contain_text(re.compile("Time for a cell *30 s"))
    expect(desk.popover).to_contain_text("no files")
    expect(desk.popover.get_by_role("button", name="Changed files")).to_have_count(0)
    desk.page.keyboard.press("Escape")
    desk.notebook.cell(0).locator(".cm-content").fill(MEMORY)
    expect(desk.run(0)).to_have_text(re.compile(r"^(1\d|2[0-4])\d\s*$"), timeout=SLOW_MS)
    (sandbox,) = Client().sandboxes()
    assert (sandbox.spec.memory_mib, sandbox.spec.limits.cell_s, sandbox.spec.kernel.files) == (256, 30, "none")


def test_a_refusal_is_said_in_the_dialog_which_keeps_what_was_chosen(desk, policy):
    """The policy gets stricter while the dialog is open."""
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="New sandbox…").click()
    chooser(desk, "Memory").select_option("1 GiB", timeout=SLOW_MS)
    chooser(desk, "Files").select_option("no files")
    policy("[sandbox]\nmemory_mib = 512\n")
    desk.dialog("New sandbox").get_by_role("button", name="Start").click()
    refusal = desk.dialog("New sandbox").get_by_role("alert")
    expect(refusal).to_contain_text("Memory of 1024 MiB is above the cap of 512 MiB (sandbox.memory_mib in ")
    expect(refusal).to_contain_text("policy.toml). Ask for less")
    expect(chooser(desk, "Memory").locator("option:checked")).to_have_text("1 GiB")
    expect(chooser(desk, "Files").locator("option:checked")).to_have_text("no files")
    with desk.page.expect_response(lambda reply: reply.request.method == "DELETE"):
        desk.answer("New sandbox", "Cancel")
    assert Client().sandboxes() == []
    assert [path.name for path in desk.server.folder.glob("[!.]*")] == ["unused.ipynb"]


def test_what_policy_does_not_allow_is_not_offered_and_its_cap_is_told(desk, policy):
    policy("[sandbox]\nmemory_mib = 600\ncpus = 1\n")
    desk.page.get_by_role("menuitem", name="File", exact=True).click()
    items = desk.page.locator(".lm-Menu-itemLabel")
    items.filter(has_text=re.compile("^New$")).click()
    items.filter(has_text=re.compile("^Sandbox…$")).click()
    memory = chooser(desk, "Memory")
    expect(memory.locator("option")).to_have_text(["512 MiB (usual)", "256 MiB", "512 MiB", "600 MiB"], timeout=SLOW_MS)
    expect(memory).to_have_accessible_description("At most 600 MiB.")
    expect(chooser(desk, "Processors").locator("option")).to_have_text(["1 (usual)", "1"])
    expect(desk.dialog("New sandbox")).to_contain_text(f"What may be chosen is set in {find_paths().policy}.")
    desk.answer("New sandbox", "Cancel")
