"""Nothing of ours keeps people from using it: no serious fault in what axe-core can see, in either theme."""

import pytest
from accessibility import find_faults
from desk import SANDBOXES, MadeUp, make_up
from lab import SLOW_MS
from playwright.sync_api import expect

NAME = "plain.ipynb"
WORK = "import pathlib\npathlib.Path('a.py').write_text('x = 1\\ny = 2\\n'); print('all is written')"

themes = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def desk(open_desk, server):
    (server.folder / "a.py").write_text("x = 1\ny = 0\n")
    with open_desk(NAME, [WORK, "from IPython.display import HTML\nHTML('<script>1</script>')"]) as desk:
        expect(desk.run(0)).to_have_text("all is written", timeout=SLOW_MS)
        desk.run(1)
        yield desk


def test_a_fault_is_found(desk):
    """Else the others would pass, whatever there is."""
    desk.page.evaluate(
        """() => document.querySelector('.hyper-Shield').insertAdjacentHTML('beforeend',
            '<button id="bad" style="color: #777; background: #888"><img src="data:,"></button>')"""
    )
    faults = "\n".join(find_faults(desk.page, "#bad"))
    assert "button-name" in faults
    assert "image-alt" in faults
    desk.page.evaluate("() => document.querySelector('#bad').remove()")


@themes
def test_shields_and_popover(desk, scheme):
    with desk.theme(scheme):
        assert find_faults(desk.page, ".hyper-Shield") == []
        desk.shield.click()
        desk.popover.get_by_text("things removed").click(timeout=SLOW_MS)
        assert find_faults(desk.page, ".hyper-Popover") == []
        desk.page.keyboard.press("Escape")


@themes
def test_panel_with_one_of_each_kind(desk, scheme):
    usage = {"cpu_percent": 60.0, "memory_bytes": 500 << 20, "measured_s": 2e9}
    kinds = [
        {"state": "booting", "tier": ""},
        {"state": "stopping"},
        {"activity": "busy", "usage": usage, "removed": {"script": 2}, "notes": ["Its folder was too large to copy."]},
        {"activity": "hung", "tier": "hardware", "files": "copy"},
        {"state": "exited", "death": "out of memory", "reason": "out of memory: used all of its 512 MiB"},
        {"state": "exited"},
        {},
        {},
        {},
    ]
    told = MadeUp(desk, [make_up(number, **changes) for number, changes in enumerate(kinds)])
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="Refresh").click()
    for number in (2, 3, 4):
        desk.row(f"worker-{number:03}")
    with desk.theme(scheme):
        assert find_faults(desk.page, f"#{SANDBOXES}") == []
    assert told.asked
    desk.page.unroute_all()


@themes
def test_new_sandbox_dialog(desk, scheme):
    desk.show(SANDBOXES)
    with desk.theme(scheme):
        desk.panel.get_by_role("button", name="New sandbox…").click()
        desk.dialog("New sandbox").wait_for()
        assert find_faults(desk.page, ".jp-Dialog") == []
        desk.answer("New sandbox", "Cancel")


@themes
def test_review_and_logs(desk, scheme):
    desk.act(NAME, "Changed files")
    change = desk.changes.get_by_role("button", name="a.py")
    change.click(timeout=SLOW_MS)
    expect(desk.changes.locator(".cm-merge-b .cm-changedLine")).to_have_count(1, timeout=SLOW_MS)
    with desk.theme(scheme):
        assert find_faults(desk.page, ".hyper-Review") == []
        desk.act(NAME, "Logs")
        expect(desk.page.locator(".hyper-Logs")).not_to_be_empty(timeout=SLOW_MS)
        assert find_faults(desk.page, ".hyper-Logs") == []
        desk.close_tab(f"Logs of {NAME}")
    desk.close_tab(f"Changes of {NAME}")
