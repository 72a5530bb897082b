"""put and get: tar archives in and out of a guest."""

import io
import os
import tarfile

import pytest

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
