"""What a person is told when a sandbox dies, and what helps."""

import os
import re
import signal

import pytest
from accessibility import find_faults
from desk import TIER
from lab import SLOW_MS
from playwright.sync_api import expect

from hyper_kernel.client import Client
from hyper_kernel.spec import ProcessSpec, SandboxSpec

NAME = "hungry.ipynb"
#: Has the guest's kernel fill its memory, which is faster than page by page.
HOG = "import os\nos.posix_fallocate(os.memfd_create('held'), 0, 1 << 30)"
MORE = "Restart with more memory (1 GiB)"


@pytest.fixture(scope="module")
def desk(open_desk):
    with open_desk(NAME, ["x = 42", HOG, "import os\nprint(os.sysconf('SC_PHYS_PAGES') * 4 >> 10)"]) as desk:
        yield desk


def test_out_of_memory_is_named_once_and_more_memory_helps(desk, pictures):
    desk.run(0)
    desk.run(1)
    dialog = desk.dialog("Out of memory")
    expect(dialog).to_contain_text(f"The kernel of {NAME} has died, and its variables are lost.", timeout=SLOW_MS)
    expect(dialog).to_contain_text("What ended it: used all of its 512 MiB.")
    expect(dialog.get_by_role("button")).to_have_text(["Close", "Restart", MORE])
    expect(dialog.get_by_role("button").last).to_be_focused()
    expect(desk.notebook.output(1)).to_contain_text("out of memory: used all of its 512 MiB", timeout=SLOW_MS)
    pictures.take("lab-death", dialog, margin=40)
    assert find_faults(desk.page, ".jp-Dialog") == []
    with desk.theme("dark"):
        assert find_faults(desk.page, ".jp-Dialog") == []
    desk.answer("Out of memory", MORE)
    expect(desk.status).to_have_text(re.compile("of 1 GiB$"), timeout=SLOW_MS)
    expect(desk.run(2)).to_have_text(re.compile(r"^(9|10)\d\d\s*$"), timeout=SLOW_MS)
    expect(desk.page.locator(".jp-Dialog")).to_have_count(0)


def test_a_sandbox_that_dies_while_it_is_looked_at(desk):
    """The popover tells of the next machine, and the death has its dialog."""
    desk.shield.click()
    expect(desk.popover).to_contain_text("of 1 GiB")
    os.kill(Client().sandboxes()[0].qemu_pid, signal.SIGKILL)
    dialog = desk.dialog("The sandbox was lost").or_(desk.dialog("Killed"))
    expect(dialog).to_contain_text("QEMU was killed by signal 9", timeout=SLOW_MS)
    dialog.get_by_role("button").filter(has_text="Close").click()
    expect(desk.shield).to_have_text(TIER, timeout=SLOW_MS)
    expect(desk.status).to_have_text(re.compile("of 1 GiB$"), timeout=SLOW_MS)


def test_a_sandbox_that_is_gone_before_the_question_is_answered(desk):
    """A program's, which somebody else removes while the dialog asks whether to stop it."""
    client = Client()
    spec = SandboxSpec(process=ProcessSpec(argv=("sleep", "600")))
    ident = client.create(spec, name="worker").id
    client.start(ident)
    desk.act("worker", "Stop")
    expect(desk.dialog("Stop worker?")).to_be_visible()
    client.remove(ident, force=True)
    expect(desk.panel.get_by_text("worker")).to_have_count(0, timeout=SLOW_MS)
    desk.answer("Stop worker?", "Stop")
    failed = desk.dialog("worker: this did not work")
    expect(failed).to_contain_text("The sandbox has been removed meanwhile.", timeout=SLOW_MS)
    failed.get_by_role("button").click()
    expect(desk.page.locator(".jp-Dialog")).to_have_count(0)


def test_a_death_whose_sandbox_is_removed_before_it_is_answered(desk):
    """*Restart* gives the notebook a sandbox, though the one that it asks for is not there any more."""
    client = Client()
    desk.notebook.cell(1).locator(".cm-content").fill(HOG.replace("1 << 30", "2 << 30"))
    desk.run(1)
    expect(desk.dialog("Out of memory")).to_be_visible(timeout=SLOW_MS)
    client.remove(client.sandboxes()[0].id, force=True)
    desk.answer("Out of memory", "Restart")
    expect(desk.run(2)).to_have_text(re.compile(r"^\d+\s*$"), timeout=SLOW_MS)
    expect(desk.page.locator(".jp-Dialog")).to_have_count(0)
