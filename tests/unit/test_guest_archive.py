"""put and get: tar archives in and out of a guest."""

import io
import os
import stat
import tarfile

import pytest

from guest.changes import list_layer
from hyper_kernel.wire import Type
from tests.unit.guest_peer import request, start_agent


@pytest.fixture
def agent(tmp_path):
    with start_agent(tmp_path) as peer:
        peer.control = peer.ready()
        yield peer


def pack(mode: str = "w", **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.mode = len(content), 1234, 1234, 0o640
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def put(agent, path, archive: bytes) -> tuple[dict, bytes, bytes]:
    stream = agent.dial()
    assert stream.open("put", path=str(path)) == (Type.OPENED, {})
    stream.send_stdin(archive)
    stream.send(Type.STDIN_EOF)
    return stream.receive_all()


def get(agent, path) -> tuple[dict, bytes, bytes]:
    stream = agent.dial()
    assert stream.open("get", path=str(path)) == (Type.OPENED, {})
    return stream.receive_all()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_put_unpacks_and_makes_folders(agent, tmp_path, mode):
    content = os.urandom(300_000)
    end, _, err = put(agent, tmp_path / "new/folder", pack(mode, one=content, two=b"2"))
    assert (end, err) == ({"code": 0, "signal": None}, b"")
    assert (tmp_path / "new/folder/one").read_bytes() == content
    status = (tmp_path / "new/folder/two").stat()
    assert status.st_mode & 0o777 == 0o640
    if os.getuid() == 0:
        assert (status.st_uid, status.st_gid) == (1234, 1234)


def test_get_packs_a_folder_and_its_links_as_links(agent, tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_bytes(b"x" * 200_000)
    (folder / "link").symlink_to("/etc/passwd")
    end, out, _ = get(agent, folder)
    assert end["code"] == 0
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert sorted(archive.getnames()) == ["data", "data/link", "data/sub", "data/sub/file"]
        assert archive.getmember("data/link").issym()
        assert archive.extractfile("data/sub/file").read() == b"x" * 200_000


def test_get_packs_one_file(agent, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with tarfile.open(fileobj=io.BytesIO(get(agent, tmp_path / "file")[1])) as archive:
        assert archive.extractfile("file").read() == b"abc"


def test_get_of_nothing_says_so(agent, tmp_path):
    end, _, err = get(agent, tmp_path / "nope")
    assert end["code"] == 1
    assert b"nope: [Errno 2] No such file" in err


@pytest.mark.parametrize("archive", [b"no archive at all" * 100, pack(one=b"x" * 5000)[:3000], b""])
def test_put_of_a_broken_archive_says_so(agent, tmp_path, archive):
    end, _, err = put(agent, tmp_path / "in", archive)
    assert end["code"] == 1
    assert err.startswith(f"put {tmp_path / 'in'}: ".encode())


def test_put_that_fails_early_still_ends_with_its_reason(agent, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    end, _, err = put(agent, tmp_path / "file", pack(one=bytes(2_000_000)))
    assert end["code"] == 1
    assert b"File exists" in err


def count_changes(agent, path) -> int:
    return request(agent.control, "changes", path=str(path))["result"]["count"]


def test_what_changed_since_the_base_is_counted_and_sent(agent, tmp_path):
    work = tmp_path / "work"
    stream = agent.dial()
    stream.open("put", path=str(work), base=True)
    stream.send_stdin(pack(one=b"1", two=b"2"))
    stream.send(Type.STDIN_EOF)
    stream.receive_all()
    assert count_changes(agent, work) == 0
    (work / "one").write_bytes(b"changed")
    (work / "new/deep").mkdir(parents=True)
    (work / "new/deep/file").write_bytes(b"3")
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    assert count_changes(agent, work) == 5
    put(agent, work, pack(later=b"4"))  # no base: what it brings is a change like any other
    stream = agent.dial()
    stream.open("get", path=str(work), changes=True)
    end, data, err = stream.receive_all()
    assert (end["code"], err) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert sorted(archive.getnames()) == ["later", "link", "new", "new/deep", "new/deep/file", "one"]
        assert archive.getmember("link").issym()
        assert archive.extractfile("one").read() == b"changed"


def test_without_a_base_all_has_changed(agent, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/file").write_bytes(b"x")
    assert count_changes(agent, tmp_path / "work") == 1
    assert count_changes(agent, tmp_path / "nowhere") == 0


def list_all(agent, path) -> dict[bytes, bytes]:
    """What a list stream says: path to kind, mark and size."""
    stream = agent.dial()
    assert stream.open("list", path=str(path)) == (Type.OPENED, {})
    end, out, err = stream.receive_all()
    assert (end["code"], err) == (0, b"")
    return {path: facts for facts, _, path in (line.partition(b" ") for line in out.split(b"\0")[:-1])}


def test_what_is_there_is_listed_with_a_mark_for_what_changed(agent, tmp_path):
    work = tmp_path / "work"
    stream = agent.dial()
    stream.open("put", path=str(work), base=True)
    stream.send_stdin(pack(one=b"1", two=b"22"))
    stream.send(Type.STDIN_EOF)
    stream.receive_all()
    (work / "two").write_bytes(b"changed")
    (work / "new").mkdir()
    (work / "new/odd\nname").write_bytes(b"3")
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    assert list_all(agent, work) == {
        b"one": b"f=1",
        b"two": b"f+7",
        b"new": b"d+0",
        b"new/odd\nname": b"f+1",
        b"link": b"l+0",
    }
    assert list_all(agent, tmp_path / "nowhere") == {}


def test_files_that_are_too_large_are_left_out_of_what_changed(agent, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/small").write_bytes(b"x" * 10)
    (tmp_path / "work/large").write_bytes(b"x" * 11)
    stream = agent.dial()
    stream.open("get", path=str(tmp_path / "work"), changes=True, max_size=10)
    with tarfile.open(fileobj=io.BytesIO(stream.receive_all()[1])) as archive:
        assert archive.getnames() == ["small"]


def test_the_images_writable_layer_is_listed_against_its_disk(tmp_path):
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for path in ("upper/etc", "upper/proc/x", "upper/new", "lower/etc"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("upper/etc/passwd", "lower/etc/passwd", "upper/etc/hosts", "upper/new/file", "lower/etc/gone"):
        (tmp_path / path).write_text("text")
    try:
        os.mknod(upper / "etc/gone", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("only root makes devices")
    lines = sorted(list_layer(str(upper), str(lower)))
    assert lines == [b"d+0 new\0", b"d=0 etc\0", b"f+4 new/file\0", b"f-4 etc/gone\0", b"f=4 etc/passwd\0"]
