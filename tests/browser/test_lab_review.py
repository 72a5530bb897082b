"""Changed files: looked at side by side, taken over one by one, and what both sides have changed."""

import hashlib

import pytest
from lab import SLOW_MS
from playwright.sync_api import expect

NAME = "clean.ipynb"
SCRIPT = """\
\"\"\"Cleans the measurements.\"\"\"

import csv

LIMIT = {limit}


def clean(path):
    with open(path) as file:
        rows = list(csv.reader(file))
{body}
"""
BEFORE = SCRIPT.format(limit=100, body="    return [row for row in rows if row]")
AFTER = SCRIPT.format(
    limit=250, body="    head, *rest = rows\n    return [head, *(row for row in rest if float(row[1]) < LIMIT)]"
)
BINARY = bytes(range(256)) * 80
WORK = f"""
import pathlib
pathlib.Path('clean.py').write_text({AFTER!r})
pathlib.Path('cleaned.csv').write_text('day,value\\nMonday,12\\nTuesday,17\\n' * 40)
pathlib.Path('notes.md').write_text('The sandbox has read them.\\n')
pathlib.Path('plot.bin').write_bytes(bytes(range(256)) * 80)
pathlib.Path('old.csv').unlink()
print('all is written')"""


@pytest.fixture(scope="module")
def desk(open_desk, server):
    files = {"clean.py": BEFORE, "notes.md": "To be read.\n", "old.csv": "day,value\n"}
    for name, text in files.items():
        (server.folder / name).write_text(text)
    with open_desk(NAME, [WORK.strip()]) as desk:
        expect(desk.run(0)).to_have_text("all is written", timeout=SLOW_MS)
        (server.folder / "notes.md").write_text("Somebody on the host has read them.\n")
        desk.act(NAME, "Changed files")
        expect(desk.changes.locator(".hyper-Change")).to_have_count(5, timeout=SLOW_MS)
        desk.hide("hyper-kernel-panel")
        yield desk


def change(desk, name):
    return desk.changes.locator(".hyper-Change").filter(has=desk.page.get_by_title(name, exact=True))


def choose(desk, name):
    return change(desk, name).get_by_role("checkbox")


def show(desk, name):
    change(desk, name).get_by_role("button").click()
    return desk.changes.locator(".hyper-Compare")


def test_text_stands_side_by_side(desk, pictures):
    compared = show(desk, "clean.py")
    expect(compared.locator(".cm-merge-a .cm-changedLine").first).to_contain_text("LIMIT = 100", timeout=SLOW_MS)
    expect(compared.locator(".cm-merge-b .cm-changedLine").first).to_contain_text("LIMIT = 250")
    expect(compared.get_by_role("textbox", name="On the host")).to_contain_text("if row]")
    choose(desk, "clean.py").check()
    with desk.theme("dark"):
        pictures.take("lab-review", desk.page, height=420)
    choose(desk, "clean.py").uncheck()


def test_what_is_no_text_is_compared_by_size_and_digest(desk):
    compared = show(desk, "plot.bin")
    expect(compared.get_by_role("row", name="Size no such file 20 KiB")).to_be_visible(timeout=SLOW_MS)
    expect(compared.get_by_role("row", name="SHA-256")).to_contain_text(hashlib.sha256(BINARY).hexdigest())


def test_kinds_are_said(desk):
    for name, kind in {"clean.py": "changed", "cleaned.csv": "added", "old.csv": "deleted"}.items():
        expect(change(desk, name)).to_contain_text(kind)
    expect(change(desk, "notes.md")).to_contain_text("changed on this machine, too")


def test_one_file_is_taken_over_and_no_other(desk):
    choose(desk, "cleaned.csv").check()
    desk.changes.get_by_role("button", name="Apply 1").click()
    expect(desk.changes.get_by_role("status")).to_have_text("1 file taken over.", timeout=SLOW_MS)
    expect(desk.changes.locator(".hyper-Change")).to_have_count(4)
    folder = desk.server.folder
    assert (folder / "cleaned.csv").read_text().startswith("day,value\nMonday,12\n")
    assert (folder / "clean.py").read_text() == BEFORE
    assert (folder / "old.csv").exists()
    assert not (folder / "plot.bin").exists()


def test_what_both_sides_changed_is_taken_over_by_force_alone(desk):
    expect(choose(desk, "notes.md")).to_be_disabled()
    notes = desk.server.folder / "notes.md"
    assert notes.read_text() == "Somebody on the host has read them.\n"
    desk.changes.get_by_label("Overwrite files that have changed on the host, too").check()
    choose(desk, "notes.md").check()
    desk.changes.get_by_role("button", name="Apply 1").click()
    expect(desk.changes.get_by_role("status")).to_have_text("1 file taken over.", timeout=SLOW_MS)
    assert notes.read_text() == "The sandbox has read them.\n"


def test_what_is_taken_over_is_what_was_looked_at(desk):
    """The sandbox writes to a file after it was shown: that stays a change of its own."""
    choose(desk, "clean.py").check()
    desk.bring(NAME)
    desk.notebook.cell(0).locator(".cm-content").fill("print(open('clean.py', 'a').write('import os\\n'))")
    expect(desk.run(0)).to_have_text("10", timeout=SLOW_MS)
    desk.bring(f"Changes of {NAME}")
    desk.changes.get_by_role("button", name="Apply 1").click()
    expect(change(desk, "clean.py")).to_contain_text(f"{len(AFTER) + 10} B", timeout=SLOW_MS)
    assert (desk.server.folder / "clean.py").read_text() == AFTER
    added = show(desk, "clean.py").locator(".cm-merge-b .cm-changedLine", has_text="import os")
    expect(added).to_have_count(1, timeout=SLOW_MS)
