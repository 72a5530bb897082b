"""What a sandbox changed, from what it was given and what it has."""

import pytest

from hyper_kernel.review.changes import (
    FOLDER,
    Change,
    Kept,
    Kind,
    Seen,
    carry_base,
    find_alike,
    plan_changes,
    plan_fetch,
)

OLD, NEW = "0" * 64, "1" * 64
BASE = {"same": OLD, "old": OLD, "gone": OLD, "dir": FOLDER, "dir/in": OLD}


def seen(path, kind="f", *, new=True, size=3):
    return Seen(path=path, kind=kind, is_new=new, size=size)


def plan(*entries, kept=None, base=BASE, is_whole=True):
    by_path = {each.path: each for each in entries}
    changes = plan_changes(by_path, kept or {}, base, is_whole=is_whole)
    return {change.path: change for change in changes}


def everything(**more):
    """All of the base, as it went in."""
    return [
        seen(path, "d" if digest == FOLDER else "f", new=False) for path, digest in BASE.items() if path not in more
    ]


def kinds(changes):
    return {path: str(change.kind) for path, change in changes.items()}


def test_added_changed_deleted_and_what_was_only_touched():
    entries = [*(each for each in everything() if each.path != "gone"), seen("old"), seen("same"), seen("new")]
    kept = {"old": Kept(3, NEW, True), "same": Kept(3, OLD, True), "new": Kept(5, NEW, False)}
    changes = plan(*entries, kept=kept)
    assert kinds(changes) == {"gone": "deleted", "new": "added", "old": "changed"}
    assert changes["old"] == Change(path="old", kind=Kind.CHANGED, size=3, digest=NEW, base=OLD, is_text=True)
    assert changes["new"] == Change(path="new", kind=Kind.ADDED, size=5, digest=NEW)
    assert changes["gone"] == Change(path="gone", kind=Kind.DELETED, base=OLD)


def test_folders():
    assert kinds(plan(*everything(), seen("dir", "d"), seen("more", "d"))) == {"more": "added"}
    gone = plan(*(each for each in everything() if not each.path.startswith("dir")))
    assert kinds(gone) == {"dir": "deleted", "dir/in": "deleted"}
    assert gone["dir"].is_folder and not gone["dir/in"].is_folder


def test_what_belongs_to_the_image_is_no_change():
    assert plan(*everything(), seen("of-the-image", new=False)) == {}


def test_nothing_is_told_to_be_deleted_where_not_all_was_seen():
    assert plan(seen("same", new=False), is_whole=False) == {}


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (seen("same", "l"), "link"),
        (seen("new", "l"), "link"),
        (seen("same", "d"), "was a file"),
        (seen("dir", "f"), "was a folder"),
        (seen("new", size=1 << 40), "too large"),
        (seen("../escape"), "elsewhere"),
        (seen("a\x1bb", "d"), "cannot be seen"),
    ],
)
def test_what_can_never_be_applied_says_why(entry, fault):
    (change,) = plan(entry, base={**BASE}, is_whole=False, kept={"../escape": Kept(1, NEW, True)}).values()
    assert fault in change.fault
    assert change.path.isprintable()


def test_small_files_are_fetched_before_large_ones():
    files = [seen(str(size), size=size) for size in (50, 10, 20, 1000)]
    assert plan_fetch(files, 80) == 50
    assert plan_fetch(files, 79) == 20
    assert plan_fetch([seen("d", "d", size=9), seen("old", new=False, size=99)], 10) == 0


def test_what_went_along_to_a_fresh_machine_stays_compared_with_what_the_old_one_had():
    base, before = {"both": NEW, "mine": NEW, "theirs": NEW}, {"both": OLD, "mine": OLD}
    carried = carry_base(base, before, ["both", "theirs", "new"])
    assert carried == {"both": OLD, "mine": NEW}  # the host made "theirs" since, and so did the kernel


def test_added_names_that_look_like_others_are_found():
    added = [Change(path=path, kind=Kind.ADDED) for path in ("Data.csv", "m\u0430in.py", "new.py")]
    assert find_alike(added, ["data.csv", "main.py"]) == {"Data.csv": "data.csv", "m\u0430in.py": "main.py"}
    assert find_alike([Change(path="data.csv", kind=Kind.CHANGED)], ["data.csv"]) == {}


GOOD = Change(path="a", kind=Kind.ADDED, size=1, digest=NEW).as_dict()


def test_a_change_comes_back_from_plain_data():
    assert Change.from_dict(GOOD).as_dict() == GOOD


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**GOOD, "more": 1},
        {**GOOD, "size": "1"},
        {**GOOD, "size": True},
        {**GOOD, "size": -1},
        {**GOOD, "path": ["a"]},
        {**GOOD, "kind": "other"},
        {**GOOD, "digest": "../../etc/passwd"},
        {**GOOD, "base": "x"},
        {**GOOD, "path": "../escape"},
        {**GOOD, "path": "/etc/passwd"},
    ],
)
def test_what_is_no_change_is_refused(data):
    """The shim that wrote it may have been taken over by its guest."""
    with pytest.raises(ValueError, match=r"change|Kind"):
        Change.from_dict(data)
