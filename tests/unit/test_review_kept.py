"""What the shim keeps of a guest's files, and hyperd reads: both treat what they read as hostile."""

import io
import json
import os
import tarfile

import pytest

from hyper_kernel.errors import ConflictError, GuestError, HostError
from hyper_kernel.review import kept as module
from hyper_kernel.review.changes import Change, Kept, Kind, Seen
from hyper_kernel.review.kept import (
    MAX_TEXT,
    Review,
    copy,
    open_content,
    parse_listing,
    read_base,
    read_review,
    stage,
    write_base,
    write_review,
)
from hyper_kernel.wire import MAX_LISTED

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def archive(*members, **kinds):
    """A tar archive of (name, content) pairs; ``kinds`` makes entries of other types."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6777
            made.addfile(info, io.BytesIO(content))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            made.addfile(info)
    buffer.seek(0)
    return buffer


def review_of(*changes, taken_s=1.0):
    return Review(taken_s=taken_s, changes=changes, notes=("a note",))


def added(path="a", digest=HELLO, size=5):
    return Change(path=path, kind=Kind.ADDED, size=size, digest=digest, is_text=True)


def test_a_listing():
    data = b"f+12 a b\0d=0 dir\0l+0 dir/link\0f=7 odd\n\xff\0"
    assert parse_listing(data) == {
        "a b": Seen(path="a b", kind="f", is_new=True, size=12),
        "dir": Seen(path="dir", kind="d", is_new=False, size=0),
        "dir/link": Seen(path="dir/link", kind="l", is_new=True, size=0),
        "odd\n\udcff": Seen(path="odd\n\udcff", kind="f", is_new=False, size=7),
    }
    assert parse_listing(b"") == {}


@pytest.mark.parametrize(
    "data", [b"x+1 a\0", b"f+ a\0", b"f+1 \0", b"f+-1 a\0", b"f1 a\0", b"\0", b"f+9999999999999999999 a\0", b"f+1\0"]
)
def test_what_is_no_listing_is_an_error(data):
    with pytest.raises(GuestError):
        parse_listing(data)


def test_a_listing_has_an_end():
    line = b"f+1 a\0"
    assert len(parse_listing(line * MAX_LISTED)) == 1
    with pytest.raises(GuestError):
        parse_listing(line * (MAX_LISTED + 1))


def test_contents_are_kept_under_their_digest_and_nothing_else(tmp_path):
    made = archive(("a", b"hello"), ("sub/b", b"hello"), ("unasked", b"x"), ("../c", b"x"), link=tarfile.SYMTYPE)
    wanted = ["a", "sub/b", "link", "dev"]
    assert stage(made, tmp_path, wanted) == {"a": Kept(5, HELLO, True), "sub/b": Kept(5, HELLO, True)}
    assert sorted(os.listdir(tmp_path)) == ["review"]
    assert HELLO in os.listdir(tmp_path / "review")
    assert (tmp_path / "review" / HELLO).stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("content", "is_text"),
    [(b"", True), ("ü".encode(), True), (b"a\0b", False), (b"\xff\xfe", False), (b"\xc3", False)],
)
def test_text_is_utf8_without_zeros(tmp_path, content, is_text):
    assert stage(archive(("a", content)), tmp_path, ["a"])["a"].is_text is is_text


def test_what_is_long_is_not_shown_as_text(tmp_path):
    assert not stage(archive(("a", b"x" * (MAX_TEXT + 1))), tmp_path, ["a"])["a"].is_text


@pytest.mark.parametrize("data", [b"junk" * 200, archive(("a", b"x" * 2000)).getvalue()[:1500]])
def test_an_archive_that_is_damaged_is_an_error(tmp_path, data):
    with pytest.raises(GuestError):
        stage(io.BytesIO(data), tmp_path, ["a"])


def test_devices_and_pipes_are_left_out(tmp_path):
    made = archive(chr=tarfile.CHRTYPE, blk=tarfile.BLKTYPE, fifo=tarfile.FIFOTYPE, hard=tarfile.LNKTYPE)
    assert stage(made, tmp_path, ["chr", "blk", "fifo", "hard"]) == {}


def test_a_review_is_kept_with_the_contents_it_needs(tmp_path):
    stage(archive(("a", b"hello"), ("b", b"other")), tmp_path, ["a", "b"])
    assert read_review(tmp_path) is None
    write_review(tmp_path, review_of(added()))
    assert read_review(tmp_path) == review_of(added())
    assert sorted(os.listdir(tmp_path / "review")) == sorted([HELLO, "changes.json"])
    write_review(tmp_path, review_of())
    assert os.listdir(tmp_path / "review") == ["changes.json"]


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        "{}",
        "[" * 100_000,
        '{"taken_s": "x", "changes": [], "notes": []}',
        '{"taken_s": 1, "changes": 5, "notes": []}',
        '{"taken_s": 1, "changes": {"a": 1}, "notes": []}',
        json.dumps({"taken_s": 1, "notes": [], "changes": [{**added().as_dict(), "digest": "../../secret"}]}),
        json.dumps({"taken_s": 1, "notes": [], "changes": [{**added().as_dict(), "path": "../../secret"}]}),
    ],
)
def test_a_review_that_the_shim_cannot_have_meant_is_an_error(tmp_path, data):
    (tmp_path / "review").mkdir()
    (tmp_path / "review/changes.json").write_text(data)
    with pytest.raises(GuestError, match="cannot be read"):
        read_review(tmp_path)


def test_hyperd_follows_no_link_of_the_shims(tmp_path):
    secret, sandbox = tmp_path / "secret", tmp_path / "sandbox"
    secret.mkdir()
    (secret / HELLO).write_bytes(b"hello")
    (secret / "changes.json").write_text(json.dumps(review_of().as_dict()))
    (sandbox / "review").mkdir(parents=True)
    (sandbox / "review" / HELLO).symlink_to(secret / HELLO)
    (sandbox / "review/changes.json").symlink_to(secret / "changes.json")
    (sandbox / "copied.json").symlink_to(secret / "changes.json")
    with pytest.raises(ConflictError), open_content(sandbox, HELLO):
        pass
    with pytest.raises(GuestError):
        read_review(sandbox)
    with pytest.raises(HostError):
        read_base(sandbox)
    write_base(sandbox, {"a": HELLO})
    assert not (sandbox / "copied.json").is_symlink()
    assert json.loads((secret / "changes.json").read_text()) == review_of().as_dict()


def test_hyperd_follows_no_folder_that_is_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / HELLO).write_bytes(b"hello")
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox/review").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError), open_content(tmp_path / "sandbox", HELLO):
        pass


def test_hyperd_waits_for_no_pipe_of_the_shims(tmp_path):
    (tmp_path / "review").mkdir()
    os.mkfifo(tmp_path / "review" / HELLO)
    os.mkfifo(tmp_path / "review/changes.json")
    with open_content(tmp_path, HELLO) as file, pytest.raises(GuestError):
        copy(file, 5, HELLO, lambda data: None)
    with pytest.raises(GuestError):
        read_review(tmp_path)


@pytest.mark.parametrize("content", [b"hello!", b"hell", b"jello", b""])
def test_content_that_is_not_what_it_says_is_an_error(content):
    with pytest.raises(GuestError, match="not what was looked at"):
        copy(io.BytesIO(content), 5 if content != b"hello!" else 6, HELLO, lambda data: None)


def test_what_was_copied_in_is_kept(tmp_path):
    assert read_base(tmp_path) == {}
    write_base(tmp_path, {"a": HELLO, "dir": "", "odd\udcff": HELLO})
    assert read_base(tmp_path) == {"a": HELLO, "dir": "", "odd\udcff": HELLO}


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "[" * 100_000])
def test_a_damaged_list_of_what_was_copied_in_is_an_error(tmp_path, text):
    (tmp_path / "copied.json").write_text(text)
    with pytest.raises(HostError):
        read_base(tmp_path)


def test_a_list_that_never_ends_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_JSON", 1000)
    (tmp_path / "copied.json").write_text("{" + " " * 2000 + "}")
    with pytest.raises(HostError, match="limit"):
        read_base(tmp_path)
