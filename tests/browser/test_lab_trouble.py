"""hyperd that hangs or is killed, a tab that slept, two hundred sandboxes: the panel says what is, and goes on."""

import os
import re
import signal

import pytest
from desk import SANDBOXES, TIER, MadeUp, make_up
from lab import SLOW_MS
from playwright.sync_api import expect

from hyper_kernel.client import Client

NAME = "steady.ipynb"
#: By the server, or where that waits, too, by the page.
NO_ANSWER = re.compile("hyperd does not answer|No answer for 10 s", re.I)
HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture(scope="module")
def desk(open_desk):
    with open_desk(NAME, ["x = 40", "print(x + 2)"]) as desk:
        expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
        desk.run(0)
        yield desk


@pytest.fixture
def made_up(desk):
    """A function: sandboxes that the panel shows instead of those that are there."""
    yield lambda sandboxes: MadeUp(desk, sandboxes)
    desk.page.unroute_all()
    desk.panel.get_by_role("button", name="Refresh").click()
    expect(desk.row(NAME)).to_be_visible(timeout=SLOW_MS)


def test_hyperd_that_hangs_is_named_until_it_goes_on(desk):
    row = desk.row(NAME)
    pid = Client().status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        expect(desk.panel.get_by_role("status")).to_contain_text(NO_ANSWER, timeout=SLOW_MS)
        expect(row).to_be_visible()
    finally:
        os.kill(pid, signal.SIGCONT)
    desk.panel.get_by_role("button", name="Refresh").click()
    expect(desk.panel.get_by_role("status")).to_have_text("", timeout=SLOW_MS)
    expect(desk.run(1)).to_have_text("42", timeout=SLOW_MS)


def test_hyperd_that_is_killed_comes_back_with_all_it_had(desk):
    ident = desk.row(NAME).get_attribute("data-sandbox")
    os.kill(Client().status()["pid"], signal.SIGKILL)
    expect(desk.run(1)).to_have_text("42", timeout=SLOW_MS)
    assert Client().sandbox(ident).id == ident  # this starts it, if Jupyter has not yet
    desk.panel.get_by_role("button", name="Refresh").click()
    expect(desk.row(NAME)).to_have_attribute("data-sandbox", ident, timeout=SLOW_MS)
    expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)


def test_where_no_hyperd_runs_the_panel_says_so(desk, made_up):
    page, stopped = desk.page, {"hyperd": "stopped", "tier": "unknown", "alive": 0}
    page.route(
        re.compile("/hyper/api/v1/status"),
        lambda route: route.fulfill(json=route.fetch().json() | stopped),
    )
    made_up([])
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="Refresh").click()
    expect(desk.panel).to_contain_text("hyperd does not run; what starts a sandbox starts it.", timeout=SLOW_MS)
    expect(desk.panel).to_contain_text("No sandbox runs.")


def test_two_hundred_sandboxes(desk, made_up):
    told = made_up([make_up(number) for number in range(200)])
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="Refresh").click()
    rows = desk.panel.locator(".hyper-Row")
    expect(rows).to_have_count(200, timeout=SLOW_MS)
    expect(desk.panel).to_contain_text("200 sandboxes run, with 31 GiB of memory")
    rows.last.scroll_into_view_if_needed()
    expect(rows.last.get_by_text("worker-199")).to_be_in_viewport()
    search = desk.panel.get_by_role("searchbox", name="Filter sandboxes")
    search.fill("worker-12 IDLE")
    expect(rows).to_have_count(10)
    search.fill("nothing like it")
    expect(rows).to_have_count(0)
    expect(desk.panel).to_contain_text("No sandbox is like this.")
    search.fill("worker-123")
    expect(rows).to_have_count(1)
    desk.act("worker-123", "Stop")
    desk.answer("Stop worker-123?", "Stop")
    expect(desk.panel).to_contain_text("No sandbox is like this.", timeout=SLOW_MS)
    assert told.actions == [(f"{123:064x}", "stop")]
    search.fill("")
    expect(rows).to_have_count(199)


def test_two_hundred_rows_stay_as_they_are_where_nothing_changed(desk, made_up):
    """A question every two seconds draws only what has changed."""
    sandboxes = [make_up(number) for number in range(200)]
    told = made_up(sandboxes)
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="Refresh").click()
    rows = desk.panel.locator(".hyper-Row")
    expect(rows).to_have_count(200, timeout=SLOW_MS)
    desk.page.evaluate(
        """() => {
            window.drawn = new Set();
            new MutationObserver(all => all.forEach(({target}) => {
                window.drawn.add(target.parentElement?.closest('.hyper-Row')?.dataset.sandbox);
            })).observe(document.querySelector('.hyper-List ul'),
                {subtree: true, childList: true, characterData: true});
        }"""
    )
    told.sandboxes = [*sandboxes[:7], sandboxes[7] | {"activity": "busy"}, *sandboxes[8:]]
    expect(rows.nth(7)).to_contain_text("busy", timeout=SLOW_MS)
    assert desk.page.evaluate("() => [...window.drawn]") == [f"{7:064x}"]


def test_a_tab_that_slept_asks_at_once_and_not_before(desk, made_up):
    told = made_up([make_up(1)])
    desk.show(SANDBOXES)
    desk.panel.get_by_role("button", name="Refresh").click()
    expect(desk.row("worker-001")).to_contain_text("idle", timeout=SLOW_MS)
    desk.page.clock.install()
    desk.page.evaluate(HIDE, True)
    desk.page.clock.fast_forward("00:10")  # what was under way when it fell asleep
    told.sandboxes, told.asked = [make_up(1, activity="busy"), make_up(2)], 0
    desk.page.clock.fast_forward("01:00:00")
    assert told.asked == 0
    desk.page.evaluate(HIDE, False)
    expect(desk.row("worker-001")).to_contain_text("busy", timeout=SLOW_MS)
    expect(desk.row("worker-002")).to_be_visible()
    assert told.asked >= 1
