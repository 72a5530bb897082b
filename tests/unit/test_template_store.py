"""Templates on disk: kept, held, verified, and which of them go."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyper_kernel import wire
from hyper_kernel.cli.template import app
from hyper_kernel.errors import HostError, NotFoundError
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.host.memory import open_memory
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.oci.store import Image
from hyper_kernel.paths import find_paths
from hyper_kernel.template.describe import describe, find_image
from hyper_kernel.template.evict import MAX_AGE_S, MAX_BYTES, Use, decide_eviction
from hyper_kernel.template.store import TemplateStore, is_stale

NOW_S = 1_000_000_000.0


def use(key, *, disk_bytes=1, age_s=0.0, is_stale=False):
    return Use(key=key, disk_bytes=disk_bytes, used_s=NOW_S - age_s, is_stale=is_stale)


@pytest.mark.parametrize(
    ("uses", "keep", "gone"),
    [
        ([use("a"), use("b")], "", []),
        ([use("a"), use("b", is_stale=True)], "", ["b"]),
        ([use("a", age_s=MAX_AGE_S + 1), use("b", age_s=MAX_AGE_S)], "", ["a"]),
        ([use("new", disk_bytes=MAX_BYTES // 2), use("old", disk_bytes=MAX_BYTES, age_s=5)], "", ["old"]),
        ([use("a", disk_bytes=MAX_BYTES), use("b", age_s=1), use("c", age_s=2)], "", ["c", "b"]),
        ([use("big", disk_bytes=2 * MAX_BYTES), use("small")], "big", ["small"]),
        ([use("kept", is_stale=True, age_s=MAX_AGE_S * 2)], "kept", []),
        ([use("used", age_s=9), use("stale", is_stale=True), use("aged", age_s=MAX_AGE_S * 2)], "", ["stale", "aged"]),
    ],
    ids=["few", "stale", "aged", "too much", "longest unused first", "keep is full", "keep is stale", "stale first"],
)
def test_which_templates_go(uses, keep, gone):
    assert decide_eviction(uses, NOW_S, keep) == gone


@pytest.fixture
def store(tmp_path):
    return TemplateStore(tmp_path / "templates")


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.erofs"
    path.write_bytes(b"disk")
    return path


def facts_of(disk, hypervisor="/usr/bin/qemu 1 1", **other):
    stat = disk.stat()
    files = [[str(disk), stat.st_size, stat.st_mtime_ns]]
    return {"hypervisor": hypervisor, "files": files, "wire": wire.VERSION, "kernel": None} | other


def add(store, key, facts, content=b"content", kernel_key=""):
    with store.baking(key) as folder, open_memory(1) as memory:
        (folder / "state").write_bytes(b"state")
        os.pwrite(memory, content, 0)
        return store.add(key, folder, memory, facts, kernel_key)


def content_of(ram):
    return os.pread(ram.fd, 7, 0)


def test_a_fact_that_changed_makes_a_template_stale(disk):
    facts = facts_of(disk)
    assert not is_stale(facts)
    assert not is_stale(facts, "/usr/bin/qemu 1 1")
    assert not is_stale(facts, "/opt/qemu 2 2")
    assert is_stale(facts, "/usr/bin/qemu 2 2")
    assert is_stale(facts | {"wire": wire.VERSION + 1})
    assert is_stale({"files": []})
    assert is_stale(facts | {"files": ["disk"]})
    os.utime(disk, (1, 1))
    assert is_stale(facts)
    disk.unlink()
    assert is_stale(facts_of(Path(__file__)) | {"files": facts["files"]})


def test_a_new_template_sends_stale_ones_away(store, disk, tmp_path):
    add(store, "a" * 32, facts_of(disk))
    add(store, "b" * 32, facts_of(disk, "/usr/bin/qemu 2 2"))
    assert [one.key for one in store.templates()] == ["b" * 32]
    os.utime(disk, (1, 1))
    add(store, "c" * 32, facts_of(disk, "/opt/qemu 3 3"))
    assert [one.key for one in store.templates()] == ["c" * 32]


def test_what_cannot_be_read_or_was_left_by_a_killed_process_goes(store, disk, tmp_path):
    add(store, "a" * 32, facts_of(disk))
    damaged, left = tmp_path / "templates" / ("d" * 32), tmp_path / "templates" / f".baking-{'e' * 32}-x"
    for folder in (damaged, left):
        folder.mkdir()
        (folder / "memory").write_bytes(b"x")
    assert store.evict() == ["d" * 32]
    assert not left.exists()
    assert len(store.templates()) == 1


def test_what_is_being_baked_stays(store, disk, tmp_path):
    add(store, "a" * 32, facts_of(disk))
    disk.unlink()
    with hold_lock(tmp_path / "templates" / f"{'a' * 32}.lock"):
        assert store.evict() == []
    with store.baking("b" * 32) as folder:
        assert store.evict() == ["a" * 32]
        assert folder.exists()


def test_the_last_use_counts(store, disk):
    first, second = (add(store, key * 32, facts_of(disk)) for key in "ab")
    for template, at in ((first, 1.0), (second, 2.0)):
        os.utime(template.folder / "manifest.json", (at, at))
    assert [one.key[0] for one in store.templates()] == ["b", "a"]
    with store.load(first):
        assert [one.key[0] for one in store.templates()] == ["a", "b"]
    os.utime(second.folder / "manifest.json", (1.0, 1.0))
    store.hold(second.key)
    assert second.used_s >= first.used_s > 2.0
    assert 0 < second.baked_s <= second.used_s


def test_what_is_held_is_let_go_when_it_was_removed_or_baked_anew(store, disk):
    old = add(store, "a" * 32, facts_of(disk), b"old one", "old key")
    store.hold(old.key)
    with store.load(old) as ram:
        held = ram.fd
        assert content_of(ram) == b"old one"
    store.remove(old.key)
    new = add(store, "a" * 32, facts_of(disk), b"new one", "new key")
    with store.load(new) as ram:
        assert content_of(ram) == b"new one"
    store.hold(new.key)
    with store.load(new) as ram:
        assert content_of(ram) == b"new one"
        again = ram.fd
    store.remove(new.key)
    store.hold("b" * 32)
    for fd in {held, again}:
        assert not Path(f"/proc/self/fd/{fd}").exists() or not is_template(fd)


def is_template(fd):
    return "hyper-template" in os.readlink(f"/proc/self/fd/{fd}")


def test_what_is_held_is_loaded_once_and_is_not_much(store, disk):
    templates = [add(store, key * 32, facts_of(disk, kernel=key)) for key in "abcde"]
    for template in templates:
        store.hold(template.key)
    fds = []
    for template in templates[1:]:
        with store.load(template) as first, store.load(template) as second:
            assert first is second
            fds.append(first.fd)
    with store.load(templates[0]) as first, store.load(templates[0]) as second:
        assert first.fd != second.fd
    store.hold("f" * 32)
    assert all(is_template(fd) for fd in fds)


@pytest.mark.parametrize("part", ["memory", "state", "gone"])
def test_a_damaged_template_is_refused(store, disk, part):
    template = add(store, "a" * 32, facts_of(disk))
    if part == "gone":
        store.remove(template.key)
    else:
        with open(template.folder / part, "r+b") as file:
            file.write(b"damaged")
    with pytest.raises(HostError, match=r"damaged|cannot load"), store.load(template):
        pass
    assert store.templates() == []


def test_a_manifest_is_nobody_elses(store, disk):
    template = add(store, "a" * 32, facts_of(disk), kernel_key="secret")
    assert json.loads((template.folder / "manifest.json").read_text())["kernel_key"] == "secret"
    assert template.folder.stat().st_mode & 0o777 == 0o700
    assert template.folder.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_shown_of_a_template(store, disk):
    image = Image(
        id="sha256:" + "ab" * 32,
        names=("hyper/python:latest",),
        manifest="",
        config=ImageConfig(labels={}),
        created="",
        size=1,
        layers=(),
        disk=disk,
    )
    template = add(store, "a" * 32, facts_of(disk, kernel="python3"), kernel_key="secret")
    shown = describe(template, [image])
    assert (shown["key"], shown["image"], shown["kernel"]) == ("a" * 32, "hyper/python:latest", "python3")
    assert shown["facts"] == template.facts
    assert shown["memory"]["digest"] == template.memory_digest
    assert (shown["state"]["bytes"], shown["state"]["digest"]) == (5, template.state_digest)
    assert shown["seals"] == ["shrink", "grow", "write", "seal"]
    assert shown["baked"] <= shown["last_used"]
    assert "secret" not in json.dumps(shown)
    assert find_image(template, []) == ""
    store.remove(template.key)
    assert describe(template, [])["memory"]["disk_bytes"] == 0


def test_the_command_shows_templates_but_no_key_of_a_kernel(tmp_path, disk, monkeypatch):
    monkeypatch.setenv("HYPER_HOME", str(tmp_path))
    facts = facts_of(disk, kernel="python3", memory_mib=256, cpus=2, tier="software")
    add(TemplateStore(find_paths().templates), "a" * 32, facts, kernel_key="secret")
    shown = [CliRunner().invoke(app, words).stdout for words in (["inspect", "aa"], ["ls", "--json"], ["ls"])]
    assert json.loads(shown[0])[0]["kernel"] == json.loads(shown[1])[0]["kernel"] == "python3"
    assert shown[2].split("\n")[1].startswith("aaaaaaaaaaaa   (removed)   kernel python3   256 MiB   2 ")
    assert "secret" not in "".join(shown)
    with pytest.raises(NotFoundError, match="no template b"):
        CliRunner().invoke(app, ["inspect", "b"], catch_exceptions=False)
    assert CliRunner().invoke(app, ["rm", "a"]).stdout == "aaaaaaaaaaaa\n"
    assert json.loads(CliRunner().invoke(app, ["ls", "--json"]).stdout) == []
