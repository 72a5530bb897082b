"""Folders that a sandbox sees live, as they are asked for: in words, by policy, in Docker's shapes, in order."""

import asyncio
import json
import os
from types import SimpleNamespace

import pytest

from hyper_kernel.cli.run import plan_mount
from hyper_kernel.daemon.create_body import plan_sandbox
from hyper_kernel.daemon.docker_json import details, summary
from hyper_kernel.errors import DeniedError, GuestError, RequestError
from hyper_kernel.host.jail import jail_argv
from hyper_kernel.mounts.gate import Gate, Owner
from hyper_kernel.mounts.messages import Request, pack_message, pack_number, pack_string
from hyper_kernel.mounts.server import plan_argv, plan_jail
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.policy.parse import parse_policy
from hyper_kernel.policy.rules import admit
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.live import LiveFolder, plan_mounts
from hyper_kernel.spec import KernelSpec, Mount, SandboxSpec, parse_mount
from hyper_kernel.wire import FOLDER_MSIZE, FOLDER_VERSION

READ, WRITE = Mount(source="/a", target="/b", read_only=True), Mount(source="/a", target="/b")
IMAGE = ImageConfig(cmd=("sh",), labels={})
LIVE = '[files]\nmodes = ["copy", "ro"]'


@pytest.mark.parametrize(
    ("text", "mount"),
    [("/a:/b", WRITE), ("/a:/b:rw", WRITE), ("/a:/b:ro", READ), ("/a:/b:ro,Z", READ), ("/a:/b:cached", WRITE)],
)
def test_dockers_words_are_read(text, mount):
    assert parse_mount(text) == mount
    assert parse_mount(str(mount)) == mount


@pytest.mark.parametrize(
    "text",
    [
        "/a",
        "/a:/b:/c:ro",
        ":/b",
        "/a:",
        "/a:b",
        "/a:/",
        "/:/a",
        "/a:/b:wr",
        "/a:/b:ro,rw",
        "/a/../b:/c",
        "/a:/b/..",
        "/\0:/b",
    ],
)
def test_what_is_no_folder_is_refused(text):
    with pytest.raises(RequestError) as caught:
        parse_mount(text)
    assert caught.value.hint


def test_in_a_terminal_a_folder_may_be_below_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_mount("./data:/data:ro") == Mount(source=str(tmp_path / "data"), target="/data", read_only=True)
    assert plan_mount(".:/data").source == os.fspath(tmp_path)
    with pytest.raises(RequestError, match="no volumes") as caught:
        plan_mount("data:/data")
    assert caught.value.hint == "write ./data:/data"


def test_only_what_policy_names_is_allowed():
    closed, reading = parse_policy("", "p.toml"), parse_policy(LIVE, "p.toml")
    for policy, mount in ((closed, READ), (closed, WRITE), (reading, WRITE)):
        with pytest.raises(DeniedError, match=f"/a:/b:{mount.mode} is not allowed.*files.modes in p.toml") as caught:
            admit(policy, SandboxSpec(mounts=(mount,)))
        assert f'"{mount.mode}"' in caught.value.hint
        with pytest.raises(DeniedError, match=f"files={mount.mode} is not allowed"):
            admit(policy, SandboxSpec(kernel=KernelSpec(files=mount.mode, folder="/a")))
    assert admit(reading, SandboxSpec(mounts=(READ,))).mounts == (READ,)
    assert admit(reading, SandboxSpec(kernel=KernelSpec(files="ro", folder="/a"))).kernel.files == "ro"


def test_a_place_has_one_folder():
    with pytest.raises(RequestError, match="two shared folders are to be at /b"):
        SandboxSpec(mounts=(READ, Mount(source="/c", target="/b/")))
    with pytest.raises(RequestError, match="two shared folders are to be at /work"):
        SandboxSpec(mounts=(Mount(source="/c", target="/work"),), kernel=KernelSpec(files="rw", folder="/a"))
    with pytest.raises(RequestError, match="9 shared folders are over the limit of 8"):
        SandboxSpec(mounts=tuple(Mount(source="/a", target=f"/{at}") for at in range(9)))


def test_a_kernels_folder_is_one_of_them_and_outer_ones_come_first():
    inner, outer = Mount(source="/a", target="/work/sub"), Mount(source="/a", target="/data")
    spec = SandboxSpec(mounts=(inner, outer), kernel=KernelSpec(files="ro", folder="/notebooks"))
    assert plan_mounts(spec) == [outer, Mount(source="/notebooks", target="/work", read_only=True), inner]
    assert plan_mounts(SandboxSpec(kernel=KernelSpec(files="copy", folder="/notebooks"))) == []
    with pytest.raises(RequestError, match="files=rw, and there is no folder"):
        plan_mounts(SandboxSpec(kernel=KernelSpec(files="rw")))


def test_a_spec_survives_being_written():
    spec = SandboxSpec(mounts=(READ, Mount(source="/c", target="/d")))
    assert SandboxSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    with pytest.raises(RequestError, match="Mount has no propagation"):
        SandboxSpec.from_dict({"mounts": [{"source": "/a", "target": "/b", "propagation": "shared"}]})


def test_docker_asks_for_them_in_two_ways_and_sees_them():
    mount = {"Type": "bind", "Source": "/c", "Target": "/d", "ReadOnly": True, "BindOptions": {"Propagation": ""}}
    body = {"Image": "x", "HostConfig": {"Binds": ["/a:/b"], "Mounts": [mount]}}
    spec = plan_sandbox(body, IMAGE)
    assert spec.mounts == (WRITE, Mount(source="/c", target="/d", read_only=True))
    record = Record(id="a" * 64, name="ada", spec=spec, image_id="sha256:x", created_s=1.0)
    shown = details(record, None, "")
    assert shown["HostConfig"]["Binds"] == ["/a:/b:rw", "/c:/d:ro"]
    facts = [(each["Source"], each["Destination"], each["RW"]) for each in shown["Mounts"]]
    assert facts == [("/a", "/b", True), ("/c", "/d", False)]
    assert summary(record)["Mounts"] == shown["Mounts"]


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": "/a:/b"},
        {"Binds": [1]},
        {"Mounts": {"a": 1}},
        {"Mounts": ["x"]},
        {"Mounts": [{"Type": "bind", "Source": 1}]},
    ],
)
def test_what_docker_would_never_send_is_refused(host):
    with pytest.raises(RequestError):
        plan_sandbox({"Image": "x", "HostConfig": host}, IMAGE)


@pytest.mark.parametrize("read_only", [False, True])
def test_the_servers_jail_has_its_folder_and_its_libraries(tmp_path, read_only):
    jail = plan_jail(tmp_path, read_only=read_only)
    words = jail_argv(jail, plan_argv(jail.readable[0], 7, read_only=read_only), syscalls_fd=3, info_fd=4)
    at = words.index(str(tmp_path))
    assert words[at - 1 : at + 2] == ["--ro-bind" if read_only else "--bind", str(tmp_path), "/folder"]
    assert "/proc" not in words
    program = words[words.index("--") + 1 :]
    assert str(tmp_path) not in program
    assert ("ro" in program) is read_only
    assert all(path.name == "diod" or ".so" in path.name for path in jail.readable)
    assert len(jail.readable) > 5


def _setattr(valid, uid, gid):
    body = [(0, 4), (valid, 4), (0o644, 4), (uid, 4), (gid, 4), *[(0, 8)] * 5]
    return pack_message(Request.SETATTR, b"\0\0", b"".join(pack_number(*each) for each in body))


def _begun(owner):
    gate = Gate(read_only=False, owner=owner)
    version = pack_number(FOLDER_MSIZE, 4) + pack_string(FOLDER_VERSION.encode())
    assert gate.ask(pack_message(Request.VERSION, b"\xff\xff", version))[0]
    return gate


@pytest.mark.parametrize(
    ("valid", "asked", "told"),
    [
        (0x6, (1000, 100), (0, 0)),
        (0x2, (1000, 100), (0, 100)),
        (0x4, (1000, 100), (1000, 0)),
        (0x6, (1001, 1000), (1001, 1000)),
    ],
    ids=["both", "user", "group", "others"],
)
def test_a_guests_user_is_the_servers_own_and_nobody_else_is(valid, asked, told):
    gate = _begun(Owner(uid=1000, gid=100))
    assert gate.ask(_setattr(valid, *asked))[0] == [_setattr(valid, *told)]


@pytest.mark.parametrize(
    ("served", "seen"), [((0, 0), (1000, 100)), ((65534, 65534), (65534, 65534)), ((0, 7), (1000, 7))]
)
def test_what_is_the_servers_own_is_seen_as_the_guests_users(served, seen):
    gate = _begun(Owner(uid=1000, gid=100))

    def answer(uid, gid):
        body = bytes(range(25)) + pack_number(uid, 4) + pack_number(gid, 4) + bytes(120)
        return pack_message(Request.GETATTR + 1, b"\0\0", body)

    gate.ask(pack_message(Request.GETATTR, b"\0\0", pack_number(0, 4) + pack_number(0x7FF, 8)))
    assert gate.note(answer(*served)) == answer(*seen)
    gate.ask(pack_message(Request.GETATTR, b"\0\0", pack_number(0, 4) + pack_number(0x7FF, 8)))
    short = pack_message(Request.GETATTR + 1, b"\0\0", b"")
    assert gate.note(short) == short, "a server that was taken over may say anything"


@pytest.mark.parametrize("said", [{}, {"uid": "0", "gid": 0}, {"uid": -1, "gid": 0}, {"uid": 0, "gid": 2**32}])
def test_a_guest_that_says_no_number_for_its_user_gets_no_folder(said):
    async def ask(op, **args):
        return said

    served = SimpleNamespace(words=lambda: "")
    mount = LiveFolder(Mount(source="/a", target="/b"), "somebody", served, lambda what: None)
    with pytest.raises(GuestError, match="somebody"):
        asyncio.run(mount.mount(SimpleNamespace(request=ask)))
