"""What a sandbox changed in its copy of a folder comes back by review alone: ``hyper diff`` and ``hyper apply``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyper_kernel.session import Session
from hyper_kernel.spec import KernelSpec, SandboxSpec

HYPER = Path(sys.executable).with_name("hyper")
#: What the sandbox does to its copy.
CHANGES = """
import os
from pathlib import Path
Path("table.csv").write_text("city,people\\nUlm,128000\\nBonn,331000\\n")
Path("both.txt").write_text("of the sandbox\\n")
Path("gone.txt").unlink()
Path("plots").mkdir()
Path("plots/a.bin").write_bytes(bytes(range(256)))
os.symlink("/etc/passwd", "link")
Path(".hidden").write_text("quiet\\n")
"""


def hyper(*words):
    return subprocess.run([HYPER, *words], capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(home, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "table.csv").write_text("city,people\nUlm,128000\n")
    (folder / "both.txt").write_text("of the beginning\n")
    (folder / "gone.txt").write_text("not for long\n")
    return folder


@pytest.fixture
def session(client, folder):
    spec = SandboxSpec(kernel=KernelSpec(files="copy", folder=str(folder)))
    with Session.start(client, spec, name="lab") as session:
        assert session.execute(CHANGES)["status"] == "ok"
        yield session


def test_changes_are_listed_and_come_back_one_by_one(session, folder):
    (folder / "both.txt").write_text("of this machine\n")
    listed = hyper("diff", "lab")
    assert listed.returncode == 0, listed.stderr
    marks = {line[2:].split("  (")[0]: line[:2] for line in listed.stdout.splitlines()}
    assert marks["table.csv"] == "C "
    assert marks["both.txt"] == "C!"
    assert marks["gone.txt"] == "D "
    assert marks["plots/a.bin"] == "A "
    # Nothing has changed here by looking.
    assert (folder / "table.csv").read_text() == "city,people\nUlm,128000\n"
    shown = hyper("diff", "lab", "table.csv", "plots/a.bin")
    assert "+Bonn,331000" in shown.stdout
    assert "Binary files differ: plots/a.bin: nothing → 256B sha256:40aff2e9d2d8" in shown.stdout

    one = hyper("apply", "lab", "table.csv")
    assert (one.returncode, one.stdout) == (0, "C table.csv\n")
    assert (folder / "table.csv").read_text().endswith("Bonn,331000\n")
    assert (folder / "gone.txt").exists()

    refused = hyper("apply", "lab", "both.txt")
    assert refused.returncode == 1
    assert "not applied: both.txt" in refused.stderr
    assert (folder / "both.txt").read_text() == "of this machine\n"
    assert hyper("apply", "--force", "lab", "both.txt").returncode == 0
    assert (folder / "both.txt").read_text() == "of the sandbox\n"


def test_all_comes_back_but_links_out_and_hidden_files(session, folder):
    done = hyper("apply", "--all", "lab")
    assert not (folder / "gone.txt").exists()
    assert (folder / "plots/a.bin").read_bytes() == bytes(range(256))
    assert not os.path.lexists(folder / "link")
    assert not os.path.lexists(folder / ".hidden")
    assert ".hidden" in done.stderr
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hyper", "notebooks"]
    again = hyper("diff", "lab")
    assert "table.csv" not in again.stdout
    assert hyper("apply", "lab", ".hidden").returncode == 0
    assert (folder / ".hidden").read_text() == "quiet\n"
