"""Taking a sandbox's changes over into the host's folder: only there, only whole, and nothing of the host's is lost."""

import hashlib
import os
import stat

import pytest

from hyper_kernel.errors import ConflictError, GuestError, HostError, RequestError
from hyper_kernel.review.changes import FOLDER, Change, Kind
from hyper_kernel.review.desk import Desk
from hyper_kernel.review.host_folder import HostFolder, compare
from hyper_kernel.review.kept import Review, open_content, read_base, write_base, write_review


def digest_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Case:
    """A sandbox that was given what the host's folder has, and what it made of that."""

    def __init__(self, tmp_path):
        self.folder, self.sandbox = tmp_path / "project", tmp_path / "sandbox"
        for path in (self.folder, self.sandbox / "review"):
            path.mkdir(parents=True)
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        self.base, self.changes = {}, []

    def given(self, **files):
        for path, text in files.items():
            (self.folder / path).write_text(text)
            self.base[path] = digest_of(text)

    def content(self, text):
        (self.sandbox / "review" / digest_of(text)).write_text(text)
        return {"size": len(text.encode()), "digest": digest_of(text), "is_text": True}

    def wrote(self, path, text):
        kind = Kind.CHANGED if path in self.base else Kind.ADDED
        self.changes.append(Change(path=path, kind=kind, base=self.base.get(path, ""), **self.content(text)))

    def made(self, path):
        self.changes.append(Change(path=path, kind=Kind.ADDED, is_folder=True))

    def deleted(self, path):
        base = self.base[path]
        self.changes.append(Change(path=path, kind=Kind.DELETED, is_folder=base == FOLDER, base=base))

    @property
    def desk(self):
        review = Review(taken_s=1.0, changes=tuple(self.changes))
        write_base(self.sandbox, self.base)
        write_review(self.sandbox, review)
        return Desk(sandbox=self.sandbox, folder=str(self.folder), review=review)

    def apply(self, *paths, **options):
        wanted = dict.fromkeys(paths or [""], "")
        applied, refused = self.desk.apply(wanted, **options)
        return applied, {each.path: each.reason for each in refused}

    def text(self, path):
        return (self.folder / path).read_text()

    def names(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_all_kinds_are_applied(case):
    case.given(old="one", gone="bye")
    case.wrote("old", "two")
    case.made("sub")
    case.wrote("sub/deep/new", "three")
    case.deleted("gone")
    applied, refused = case.apply()
    assert (sorted(applied), refused) == (["gone", "old", "sub", "sub/deep/new"], {})
    assert case.names() == ["old", "sub", "sub/deep", "sub/deep/new"]
    assert (case.text("old"), case.text("sub/deep/new")) == ("two", "three")
    assert case.desk.compare() == []
    assert read_base(case.sandbox)["old"] == digest_of("one")  # the desk above wrote it anew


def test_what_was_applied_is_what_the_next_change_is_compared_with(case):
    case.given(old="one", gone="bye")
    case.wrote("old", "two")
    case.deleted("gone")
    case.apply()
    assert read_base(case.sandbox) == {"old": digest_of("two")}


def test_a_part_can_be_applied(case):
    case.wrote("a/x", "1")
    case.wrote("a/y", "2")
    case.wrote("ab", "3")
    assert case.apply("a") == (["a/x", "a/y"], {})
    assert case.names() == ["a", "a/x", "a/y"]
    assert case.apply("nothing") == ([], {"nothing": "nothing of that name was changed"})


def test_a_dry_run_changes_nothing(case):
    case.given(old="one")
    case.wrote("old", "two")
    assert case.apply(dry_run=True) == (["old"], {})
    assert case.text("old") == "one"
    assert read_base(case.sandbox) == {"old": digest_of("one")}


def test_folders_are_deleted_after_what_they_hold_and_only_when_empty(case):
    for name in ("a", "a/b", "full"):
        (case.folder / name).mkdir()
        case.base[name] = FOLDER
    case.given(**{"a/b/c": "1"})
    (case.folder / "full/of-the-host").write_text("x")
    for name in ("a", "a/b", "a/b/c", "full"):
        case.deleted(name)
    applied, refused = case.apply()
    assert applied == ["a/b/c", "a/b", "a"]
    assert "not empty" in refused["full"]
    assert case.names() == ["full", "full/of-the-host"]


@pytest.mark.parametrize("force", [False, True])
def test_what_the_host_changed_too_is_lost_only_by_force(case, force):
    case.given(both="one", removed="one", deleted="one")
    case.wrote("both", "theirs")
    case.wrote("removed", "theirs")
    case.wrote("made", "theirs")
    case.deleted("deleted")
    for name in ("both", "made", "deleted"):
        (case.folder / name).write_text("mine")
    (case.folder / "removed").unlink()
    assert all(found.standing.is_conflict for found in case.desk.compare())
    applied, refused = case.apply(force=force)
    if force:
        assert (case.names(), refused) == (["both", "made", "removed"], {})
        assert {case.text(name) for name in case.names()} == {"theirs"}
    else:
        assert applied == []
        assert refused == {
            "both": "changed on this machine, too",
            "deleted": "changed on this machine, too",
            "made": "made on this machine, too",
            "removed": "deleted on this machine since",
        }
        assert {case.text(name) for name in ("both", "made", "deleted")} == {"mine"}


def test_what_the_host_has_already_is_no_change(case):
    case.given(old="one", gone="bye")
    case.wrote("old", "two")
    case.deleted("gone")
    (case.folder / "old").write_text("two")
    (case.folder / "gone").unlink()
    assert case.desk.compare() == []
    assert case.apply() == ([], {})


def test_links_of_the_host_are_never_followed_nor_replaced(case):
    """Not even by force: neither as the file, nor on the way to it."""
    case.given(old="one")
    case.wrote("old", "evil")
    case.wrote("sub/secret", "evil")
    case.wrote("sub/new", "evil")
    case.base["sub/gone"] = digest_of("secret")
    case.deleted("sub/gone")
    (case.outside / "gone").write_text("secret")
    (case.folder / "old").unlink()
    (case.folder / "old").symlink_to(case.outside / "secret")
    (case.folder / "sub").symlink_to(case.outside)
    applied, refused = case.apply(force=True)
    assert applied == []
    assert set(refused) == {"old", "sub/secret", "sub/new", "sub/gone"}
    assert sorted(os.listdir(case.outside)) == ["gone", "secret"]
    assert (case.outside / "secret").read_text() == "secret"
    assert case.desk.read(case.changes[0])["before"] is None


def test_devices_pipes_and_folders_stay_what_they_are(case):
    os.mkfifo(case.folder / "pipe")
    (case.folder / "dir").mkdir()
    case.wrote("pipe", "x")
    case.wrote("dir", "x")
    case.made("file")
    (case.folder / "file").write_text("x")
    applied, refused = case.apply(force=True)
    assert applied == []
    assert len(refused) == 3
    assert stat.S_ISFIFO((case.folder / "pipe").stat().st_mode)


@pytest.mark.parametrize("path", ["../outside/x", "/tmp/x", "a/../../outside/x", "..", "a\nb"])
def test_a_review_cannot_name_a_place_outside(case, path):
    """Whoever made it: what has a fault is not applied, and without one it is refused before."""
    with pytest.raises(ValueError, match="elsewhere"):
        Change.from_dict(Change(path=path, kind=Kind.ADDED).as_dict())
    case.changes.append(Change(path=path, kind=Kind.ADDED, fault="its name leads elsewhere", **case.content("x")))
    applied, _ = case.apply(path.strip("/"), "", force=True)
    assert applied == []
    assert os.listdir(case.outside) == ["secret"]


def test_hidden_files_have_to_be_named(case):
    for path in (".bashrc", ".git/hooks/post-commit", "a/.ipynb_checkpoints/a.ipynb", "a/__pycache__/m.pyc", "a/m.py"):
        case.wrote(path, "x")
    applied, refused = case.apply()
    assert applied == ["a/m.py"]
    assert len(refused) == 4
    assert all("named" in reason for reason in refused.values())
    assert case.apply("a")[0] == []
    assert case.apply(".git")[0] == [".git/hooks/post-commit"]
    assert case.apply(".bashrc")[0] == [".bashrc"]


def test_rights_are_the_hosts_and_no_file_becomes_a_program(case):
    case.given(script="one", private="one")
    (case.folder / "script").chmod(0o4755)
    (case.folder / "private").chmod(0o600)
    for name in ("script", "private", "new"):
        case.wrote(name, "two")
    case.apply()
    modes = {name: stat.S_IMODE((case.folder / name).stat().st_mode) for name in ("script", "private", "new")}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {"script": 0o755, "private": 0o600, "new": 0o666 & ~mask}


def test_contents_that_are_not_what_was_looked_at_are_not_applied(case):
    case.given(old="one")
    case.wrote("old", "two")
    case.wrote("new", "two")
    (case.sandbox / "review" / digest_of("two")).write_text("evi")
    applied, refused = case.desk.apply({"": ""})
    assert applied == []
    assert all("not what was looked at" in each.reason for each in refused)
    assert (case.names(), case.text("old")) == (["old"], "one")


def test_what_was_seen_with_another_digest_is_refused(case):
    case.wrote("a", "two")
    assert [each.reason for each in case.desk.apply({"a": digest_of("one")})[1]] == [
        "it is not as it was when you looked at it: look again"
    ]
    assert case.desk.apply({"a": digest_of("two")})[0] == ["a"]


def test_what_somebody_writes_meanwhile_is_kept(case, monkeypatch):
    """The host's file is looked at once more when the new one is ready to take its place."""
    case.given(old="one")
    case.wrote("old", "theirs")
    case.wrote("new", "theirs")

    def edit(fd):
        (case.folder / "old").write_text("mine")
        (case.folder / "new").write_text("mine")

    monkeypatch.setattr(os, "fsync", edit)
    applied, refused = case.apply()
    assert applied == []
    assert refused == {"old": "changed on this machine, too", "new": "made on this machine, too"}
    assert (case.text("old"), case.text("new")) == ("mine", "mine")
    assert case.names() == ["new", "old"]


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(case, monkeypatch):
    (case.folder / "sub").mkdir()
    case.wrote("sub/secret", "evil")

    def swap(fd):
        os.rename(case.folder / "sub", case.folder / "moved")
        (case.folder / "sub").symlink_to(case.outside)

    monkeypatch.setattr(os, "fsync", swap)
    applied, refused = case.apply(force=True)
    assert (applied, list(refused)) == ([], ["sub/secret"])
    assert (case.outside / "secret").read_text() == "secret"
    assert os.listdir(case.folder / "moved") == []


def test_a_crash_leaves_whole_files(case, monkeypatch):
    case.given(old="one")
    case.wrote("old", "two")

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        case.apply()
    assert (case.names(), case.text("old")) == (["old"], "one")


def test_a_disk_that_refuses_is_told_for_each_path(case, monkeypatch):
    case.wrote("a", "1")
    case.wrote("b", "2")
    real = os.fsync

    def refuse(fd):
        monkeypatch.setattr(os, "fsync", real)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    assert case.apply() == (["b"], {"a": "this machine refuses: No space left on device"})
    assert case.names() == ["b"]


def test_both_sides_can_be_read(case):
    case.given(old="one\n")
    case.wrote("old", "two\n")
    sides = case.desk.read(case.changes[0])
    assert sides["before"] == {"size": 4, "digest": digest_of("one\n"), "text": "one\n"}
    assert sides["after"]["text"] == "two\n"
    (case.folder / "old").write_bytes(b"\0\1")
    assert case.desk.read(case.changes[0])["before"]["text"] is None
    assert case.desk.read(case.changes[0])["conflict"]


def test_changes_as_clients_see_them(case):
    case.given(**{"data.csv": "1"})
    case.wrote(".env", "x")
    case.wrote("Data.csv", "x")
    case.changes.append(Change(path="lnk", kind=Kind.ADDED, fault="it is a link, and links stay inside"))
    seen = {each["path"]: each for each in (found.as_dict() for found in case.desk.compare())}
    assert seen[".env"]["hidden"] and seen[".env"]["can_apply"]
    assert seen["Data.csv"]["reason"] == "it looks like data.csv"
    assert (seen["lnk"]["can_apply"], seen["lnk"]["reason"]) == (False, "it is a link, and links stay inside")


def test_a_folder_that_is_gone_is_told(case):
    desk = case.desk
    case.folder.rmdir()
    with pytest.raises(RequestError, match="cannot open the folder"):
        desk.compare()


def test_one_change_alone_raises_why(case):
    case.given(old="one")
    case.wrote("old", "two")
    desk, change = case.desk, case.changes[0]
    (case.folder / "old").write_text("mine")
    with HostFolder.open(desk.folder) as host:
        with pytest.raises(ConflictError):
            host.apply(change, case.sandbox)
        (case.sandbox / "review" / change.digest).write_text("bad")
        with pytest.raises(GuestError):
            host.apply(change, case.sandbox, force=True)
        (case.sandbox / "review" / change.digest).unlink()
        with pytest.raises(ConflictError), open_content(case.sandbox, change.digest):
            pass
        case.folder.joinpath("blocked").write_text("")
        with pytest.raises((HostError, ConflictError)):
            host.apply(Change(path="blocked/x", kind=Kind.ADDED, is_folder=True), case.sandbox)


OLD, NEW, ELSE = "0" * 64, "1" * 64, "2" * 64
ADDED = Change(path="a", kind=Kind.ADDED, digest=NEW)
CHANGED = Change(path="a", kind=Kind.CHANGED, digest=NEW, base=OLD)
DELETED = Change(path="a", kind=Kind.DELETED, base=OLD)
FOLDER_ADDED = Change(path="a", kind=Kind.ADDED, is_folder=True)
FOLDER_DELETED = Change(path="a", kind=Kind.DELETED, is_folder=True)


@pytest.mark.parametrize(
    ("change", "present", "says"),
    [
        (ADDED, None, "ok"),
        (ADDED, NEW, "done"),
        (ADDED, ELSE, "conflict"),
        (ADDED, FOLDER, "never"),
        (ADDED, "other", "never"),
        (ADDED, "large", "conflict"),
        (CHANGED, OLD, "ok"),
        (CHANGED, NEW, "done"),
        (CHANGED, ELSE, "conflict"),
        (CHANGED, None, "conflict"),
        (CHANGED, FOLDER, "never"),
        (CHANGED, "other", "never"),
        (DELETED, OLD, "ok"),
        (DELETED, None, "done"),
        (DELETED, ELSE, "conflict"),
        (DELETED, FOLDER, "never"),
        (FOLDER_ADDED, None, "ok"),
        (FOLDER_ADDED, FOLDER, "done"),
        (FOLDER_ADDED, ELSE, "never"),
        (FOLDER_DELETED, FOLDER, "ok"),
        (FOLDER_DELETED, None, "done"),
        (FOLDER_DELETED, ELSE, "never"),
    ],
)
def test_how_changes_stand_to_what_is_there(change, present, says):
    standing = compare(change, present)
    word = "done" if standing.is_done else "conflict" if standing.is_conflict else "never" if standing.reason else "ok"
    assert word == says
