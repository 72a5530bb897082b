"""What of a notebook's folder enters a sandbox."""

import hashlib
import os
import tarfile
from types import SimpleNamespace

import pytest

from hyper_kernel.errors import RequestError
from hyper_kernel.shim import folder as module
from hyper_kernel.shim.folder import CopyPlan, open_archive, plan_copy


@pytest.fixture
def notebook_folder(tmp_path):
    root = tmp_path / "project"
    (root / "data/deep").mkdir(parents=True)
    (root / "a.ipynb").write_text("{}")
    (root / "data/table.csv").write_text("x\n1\n")
    (root / "data/deep/er.txt").write_text("deep")
    return root


def archived(root):
    with open_archive(root, plan_copy(root)) as made, tarfile.open(fileobj=made.file) as archive:
        return {item.name: item for item in archive}


def test_files_and_folders_go_in_with_their_content(notebook_folder):
    plan = plan_copy(notebook_folder)
    assert plan.paths == ("a.ipynb", "data", "data/deep", "data/table.csv", "data/deep/er.txt")
    assert plan.left_out == 0
    with open_archive(notebook_folder, plan) as made, tarfile.open(fileobj=made.file) as archive:
        assert archive.extractfile("data/table.csv").read() == b"x\n1\n"
    assert list(made.base) == list(plan.paths)
    assert made.base["data"] == ""
    assert made.base["data/table.csv"] == hashlib.sha256(b"x\n1\n").hexdigest()


def test_a_file_that_shrinks_while_it_is_read_ends_in_zeros(notebook_folder, monkeypatch):
    """tarfile was told its size; what is compared later is what went in."""
    real = os.fstat

    def larger(fd):
        facts = real(fd)
        return SimpleNamespace(st_mode=facts.st_mode, st_mtime=facts.st_mtime, st_size=facts.st_size + 100)

    monkeypatch.setattr(module.os, "fstat", larger)
    with open_archive(notebook_folder, CopyPlan(paths=("a.ipynb",), left_out=0)) as made:
        monkeypatch.undo()
        with tarfile.open(fileobj=made.file) as archive:
            content = archive.extractfile("a.ipynb").read()
    assert content == b"{}" + bytes(100)
    assert made.base == {"a.ipynb": hashlib.sha256(content).hexdigest()}


def test_hidden_files_links_and_pipes_stay_out(notebook_folder, tmp_path):
    (tmp_path / "key").write_text("secret")
    (notebook_folder / ".ssh").mkdir()
    (notebook_folder / ".env").write_text("TOKEN=1")
    (notebook_folder / "link").symlink_to(tmp_path / "key")
    (notebook_folder / "out").symlink_to(tmp_path)
    os.mkfifo(notebook_folder / "pipe")
    for made_again in (".ipynb_checkpoints", "__pycache__"):
        (notebook_folder / made_again).mkdir()
    plan = plan_copy(notebook_folder)
    assert plan.left_out == 5, "what tools make again is nothing to tell people of"
    assert not {".ssh", ".env", "link", "out", "pipe", ".ipynb_checkpoints", "__pycache__"} & set(plan.paths)


def test_a_file_that_becomes_a_link_after_the_plan_stays_out(notebook_folder, tmp_path):
    (tmp_path / "key").write_text("secret")
    plan = plan_copy(notebook_folder)
    (notebook_folder / "a.ipynb").unlink()
    (notebook_folder / "a.ipynb").symlink_to(tmp_path / "key")
    with open_archive(notebook_folder, plan) as made:
        assert b"secret" not in made.file.read()
    assert "a.ipynb" not in made.base


def test_owners_and_host_paths_are_not_told(notebook_folder):
    for item in archived(notebook_folder).values():
        assert (item.uid, item.gid, item.uname, item.gname) == (0, 0, "", "")
        assert not item.name.startswith("/")


def test_what_is_over_the_limit_is_left_out_farthest_first(notebook_folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_COPY_FILES", 3)
    plan = plan_copy(notebook_folder)
    assert plan.paths == ("a.ipynb", "data", "data/deep")
    assert plan.left_out == 2


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot read the notebook's folder"):
        plan_copy(tmp_path / "nowhere")
