"""A guest that speaks 9P of its own to the server of a folder that it sees live: through the gate, and past it.

Past the gate (``gated=False``) only the jail is left: these tests show that each holds without the other.
"""

import asyncio
import hashlib
import os
import random
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from hyper_kernel.errors import HostError, RequestError
from hyper_kernel.host.process import is_alive, read_parent, read_start_ticks
from hyper_kernel.mounts import server as mounts_server
from hyper_kernel.mounts.messages import ProtocolError
from hyper_kernel.mounts.server import check_apart, serve_folder
from tests.fakes.open_files import assert_no_more_open, count_open
from tests.security import nine_p
from tests.security.nine_p import RDONLY, RDWR, ROOT, TRUNC, WRONLY, EndedError, message, number, served, text

SECRET = "what only the host knows"
DIRECTORY, LINK = 0x80, 0x02
SETS_MODE, SETS_SIZE = 0x1, 0x8
BOTH = pytest.mark.parametrize("gated", [True, False], ids=["gate and jail", "jail alone"])


@pytest.fixture
def place(tmp_path):
    """The folder, beside what nobody shall reach from there."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for each in (folder, folder / "sub", outside):
        each.mkdir()
    (outside / "secret").write_text(SECRET)
    (folder / "file").write_text("of the folder")
    (folder / "sub" / "deep").write_text("deep")
    before = digest(outside)
    yield folder
    assert digest(outside) == before


@pytest.fixture
def run(place):
    """Do something with a client; afterwards nothing of the server is left."""

    def run(work, **options):
        async def with_client():
            async with asyncio.timeout(100), served(place, **options) as (client, server):
                pids.extend((pid, read_start_ticks(pid)) for pid in (server.pid, read_parent(server.pid)))
                await work(client, server)

        pids, before = [], count_open()
        asyncio.run(with_client())
        assert_no_more_open(before)
        assert pids and not [pid for pid, ticks in pids if is_alive(pid, ticks)]

    return run


def digest(folder):
    """All that there is below a folder, in a few bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        found.update(f"{path} {facts.st_mode} {facts.st_size} {facts.st_mtime_ns} {facts.st_uid}".encode())
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


def status(pid):
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, _, value in lines}


def memory_kib(pid):
    return int(status(pid)["VmRSS"][0])


# --- what is ordinary works, through both ---


@BOTH
def test_files_are_made_read_written_and_removed(run, place, gated):
    async def work(client, _server):
        assert await client.walk(ROOT, 1, "sub", "deep") == [DIRECTORY, 0]
        await client.open(1)
        assert await client.read(1) == b"deep"
        await client.walk(ROOT, 2)
        await client.create(2, "new")
        assert await client.write(2, b"hello") == 5
        assert (place / "new").read_text() == "hello"
        await client.walk(ROOT, 3, "new")
        await client.setattr(3, SETS_MODE, mode=0o600)
        assert stat.S_IMODE((place / "new").stat().st_mode) == 0o600
        await client.ask(nine_p.REMOVE, 3)
        assert not (place / "new").exists()
        await client.walk(ROOT, 4)
        await client.open(4)
        assert await client.names(4) == {"file", "sub"}

    run(work, gated=gated)


def test_a_rename_across_folders_and_a_link_within_stay_within(run, place):
    async def work(client, _server):
        await client.walk(ROOT, 1, "file")
        await client.walk(ROOT, 2, "sub")
        await client.ask(nine_p.LINK, 2, 1, "twin")
        await client.ask(nine_p.RENAME, 1, 2, "moved")
        assert {path.name for path in (place / "sub").iterdir()} == {"deep", "twin", "moved"}
        assert (place / "sub/twin").stat().st_ino == (place / "sub/moved").stat().st_ino

    run(work)


def test_what_a_guest_s_group_makes_keeps_the_server_going(run, place):
    """The server alone fails for good once a group that is not its own has made something."""

    async def work(client, _server):
        await client.walk(ROOT, 1)
        await client.create(1, "by-1000", gid=1000)
        await client.ask(nine_p.MKDIR, ROOT, "folder-of-1000", 0o755, 1000)
        await client.walk(ROOT, 2)
        await client.create(2, "by-0")
        owner = (place.stat().st_uid, place.stat().st_gid)
        for name in ("by-1000", "folder-of-1000", "by-0"):
            assert ((place / name).stat().st_uid, (place / name).stat().st_gid) == owner

    run(work)


def test_what_is_renamed_while_it_is_open_stays_open(run, place):
    """The server alone loses count of what is open, and writes where it must not."""

    async def work(client, server):
        for at in range(200):
            await client.walk(ROOT, 1)
            await client.create(1, f"old-{at}")
            await client.ask(nine_p.RENAME, 1, ROOT, f"new-{at}")
            await client.write(1, b"still")
            assert (place / f"new-{at}").read_text() == "still"
            assert await client.refused(client.walk(1, 1, "sub")) == "EINVAL"
            await client.clunk(1)
        assert is_alive(server.pid, read_start_ticks(server.pid))

    run(work)


# --- names ---

NAMES = ["..", ".", "", "/", "/etc", "../outside", "sub/deep", "sub/../..", "a\0b", "\0", "x" * 256]


def test_no_name_leads_out(run, place):
    async def work(client, _server):
        for name in NAMES:
            before = digest(place)
            for asking in (
                client.walk(ROOT, 1, name),
                client.walk(ROOT, 1, "sub", name),
                client.create(ROOT, name),
                client.ask(nine_p.MKDIR, ROOT, name, 0o755, 0),
            ):
                assert await client.refused(asking) == "EPERM"
            await client.walk(ROOT, 2, "file")
            assert await client.refused(client.ask(nine_p.RENAME, 2, ROOT, name)) == "EPERM"
            assert await client.refused(client.ask(nine_p.LINK, ROOT, 2, name)) == "EPERM"
            assert digest(place) == before

    run(work)


def test_past_the_gate_names_lead_to_nothing_of_the_host(run, place):
    async def work(client, _server):
        for name in ("../outside/secret", "..", "../../outside", "sub/../../outside/secret"):
            path = f"{place.parent}/outside/secret"
            for each in (name, f"..{path}", f"../proc/1/root{path}"):
                try:
                    await client.walk(ROOT, 1, each)
                    await client.open(1)
                    found = await client.names(1)
                except nine_p.RefusedError:
                    continue
                assert found <= {"dev", "folder", "lib", "lib64", "usr"}

    run(work, gated=False)


FOLDERS = [
    "/",
    "/usr/lib",
    "/usr////lib",
    "/proc///self",
    "/folder/sub",
    "/folder/../x",
    "/folder/",
    "ctl",
    "",
    "folder",
]


def test_no_other_folder_can_be_had(run):
    async def work(client, server):
        for folder in FOLDERS:
            before = status(server.pid)["Threads"]
            assert await client.refused(client.attach(5, folder)) == "EPERM"
            assert status(server.pid)["Threads"] == before

    run(work)


def test_nobody_else_can_be_had(run):
    async def work(client, _server):
        for who in ({"uid": 1000}, {"user": "mallory"}, {"afid": 3}):
            assert await client.refused(client.attach(5, **who)) == "EPERM"
            assert await client.refused(client.ask(nine_p.AUTH, 6, "root", "/folder", 0)) == "ENOTSUP"

    run(work)


def test_past_the_gate_the_server_gives_other_folders_and_there_are_none(run):
    """It compares no more of a name than where its slash is: what can be had so is the jail."""

    async def work(client, _server):
        await client.attach(5, "/usr////lib")
        await client.open(5)
        assert len(await client.names(5)) == 1  # with its libraries below
        for nothing in ("/proc///self", "/etc////", "/run////", "/home///", "/sys////"):
            assert await client.refused(client.attach(6, nothing)) in ("ENOENT", "EPERM")

    run(work, gated=False)


# --- links that the host's user has made ---


@pytest.fixture
def links(place):
    targets = {
        "out": "../outside/secret",
        "whole": str(place.parent / "outside"),
        "root": "/",
        "library": "/usr/lib",
        "memory": "/proc/self/mem",
        "inside": "file",
        "folder": "sub",
    }
    for name, target in targets.items():
        (place / name).symlink_to(target)
    return targets


def test_links_are_never_followed(run, place, links):
    async def work(client, _server):
        before = digest(place)
        for name, target in links.items():
            assert await client.walk(ROOT, 1, name) == [LINK]
            assert text(target) == await client.ask(nine_p.READLINK, 1)
            await client.walk(1, 2)  # it is one by whatever number
            for fid in (1, 2):
                for asking in (
                    client.open(fid),
                    client.open(fid, WRONLY | TRUNC),
                    client.walk(fid, 3, "secret"),
                    client.walk(fid, fid, "secret"),
                    client.create(fid, "planted"),
                    client.ask(nine_p.MKDIR, fid, "planted", 0o755, 0),
                    client.setattr(fid, SETS_MODE, mode=0o777),
                    client.setattr(fid, SETS_SIZE),
                    client.ask(nine_p.STATFS, fid),
                    client.ask(nine_p.LINK, fid, 1, "planted"),
                    client.ask(nine_p.RENAME, 1, fid, "planted"),
                ):
                    assert await client.refused(asking) == "ELOOP"
            assert await client.walk(ROOT, 4, name, "secret") == [LINK]  # so far, and no further
            assert await client.refused(client.open(4)) == "ELOOP"
        assert digest(place) == before

    run(work)


def test_past_the_gate_links_lead_to_the_jail_alone(run, place, links):
    async def work(client, server):
        for name in ("out", "whole", "memory"):
            await client.walk(ROOT, 1, name)
            assert await client.refused(client.open(1)) in ("ENOENT", "EACCES")
        await client.walk(ROOT, 2, "root")
        await client.open(2)
        assert await client.names(2) == {"dev", "folder", "lib", "lib64", "usr"}
        found = [path for path in Path(f"/proc/{server.pid}/root", "usr").rglob("*") if path.is_file()]
        assert all(path.name == "diod" or ".so" in path.name for path in found), found
        await client.walk(ROOT, 3, "library")
        assert await client.refused(client.create(3, "planted")) in ("EROFS", "ENOENT", "EACCES")

    run(work, gated=False)


def test_a_folder_that_becomes_a_link_leads_nowhere(run, place):
    """While a guest has it."""

    async def work(client, _server):
        await client.walk(ROOT, 1, "sub")
        (place / "sub").rename(place / "was")
        (place / "sub").symlink_to(place.parent / "outside")
        assert await client.refused(client.walk(1, 2, "secret")) == "ENOENT"
        assert await client.refused(client.create(1, "planted")) in ("ENOENT", "ELOOP")
        assert await client.refused(client.ask(nine_p.MKDIR, 1, "planted", 0o755, 0)) == "ENOENT"
        await client.walk(ROOT, 3, "file")
        (place / "file").unlink()
        (place / "file").symlink_to(place.parent / "outside/secret")
        assert await client.refused(client.open(3)) == "ELOOP"

    run(work)


def test_a_link_that_is_moved_to_where_a_folder_was_leads_to_the_jail_alone(run, place):
    """A guest can make no link, but move one that is there; the server goes by names."""

    async def work(client, _server):
        (place / "root").symlink_to("/")
        (place / "sub/usr").mkdir()
        await client.walk(ROOT, 1, "sub", "usr")
        await client.walk(ROOT, 2, "sub")
        await client.ask(nine_p.RENAME, 2, ROOT, "aside")
        await client.walk(ROOT, 3, "root")
        await client.ask(nine_p.RENAME, 3, ROOT, "sub")
        await client.open(1)  # of "sub/usr", which is the jail's own now
        assert await client.names(1) == {"lib", "lib64", "sbin"}
        (place / "sub").unlink()

    run(work)


def test_the_folder_stays_what_it_was_when_another_takes_its_place(run, place):
    async def work(client, _server):
        parent, moved = place.parent, place.parent / "moved"
        place.rename(moved)
        place.symlink_to(parent / "outside")
        await client.walk(ROOT, 1)
        await client.open(1)
        assert await client.names(1) == {"file", "sub"}
        await client.walk(ROOT, 2)
        await client.create(2, "new")
        assert (moved / "new").exists()
        place.unlink()
        moved.rename(place)

    run(work)


# --- what must not be made ---


@BOTH
def test_no_link_device_pipe_or_socket_is_made(run, place, gated):
    async def work(client, _server):
        before = digest(place)
        wanted = {"EPERM"} if gated else {"ENOSYS", "EPERM"}
        assert await client.refused(client.ask(nine_p.SYMLINK, ROOT, "planted", "/etc/passwd", 0)) in wanted
        for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG):
            assert await client.refused(client.ask(nine_p.MKNOD, ROOT, "planted", kind | 0o666, 1, 3, 0)) in wanted
        assert digest(place) == before

    run(work, gated=gated)


@BOTH
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_nothing_is_made_that_runs_as_its_owner(run, place, mode, gated):
    async def work(client, _server):
        wanted = {"EPERM"} if gated else {"ENOSYS"}
        await client.walk(ROOT, 1)
        assert await client.refused(client.create(1, "planted", mode=mode)) in wanted
        await client.walk(ROOT, 2, "file")
        assert await client.refused(client.setattr(2, SETS_MODE, mode=mode)) in wanted
        await client.ask(nine_p.MKDIR, ROOT, "made", mode, 0)
        for path in place.rglob("*"):
            assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
        assert not (place / "planted").exists()

    run(work, gated=gated)


def test_attributes_are_neither_set_nor_read(run, place):
    """The server alone hands out what is in its memory, before an attribute's value and behind it."""

    async def work(client, _server):
        await client.walk(ROOT, 1, "file")
        for name in ("", "user.x", "security.capability"):
            assert await client.refused(client.ask(nine_p.XATTRWALK, 1, 2, name)) == "ENOTSUP"
            assert await client.refused(client.ask(nine_p.XATTRCREATE, 1, name, number(5, 8), 0)) == "ENOTSUP"

    run(work)


def test_past_the_gate_no_attribute_is_set(run, place):
    async def work(client, _server):
        await client.walk(ROOT, 1, "file")
        await client.ask(nine_p.XATTRCREATE, 1, "user.x", number(5, 8), 0)
        await client.write(1, b"value")
        assert await client.refused(client.clunk(1)) == "ENOSYS"
        assert os.listxattr(place / "file") == []

    run(work, gated=False)


# --- a folder that can only be read ---


@BOTH
def test_what_is_read_only_is_not_changed(run, place, gated):
    async def work(client, _server):
        before = digest(place)
        await client.walk(ROOT, 1, "file")
        await client.walk(ROOT, 2)
        for asking in (
            client.open(1, WRONLY),
            client.open(1, RDWR),
            client.open(1, RDONLY | TRUNC),
            client.create(2, "planted"),
            client.ask(nine_p.MKDIR, ROOT, "planted", 0o755, 0),
            client.ask(nine_p.LINK, ROOT, 1, "planted"),
            client.ask(nine_p.RENAME, 1, ROOT, "planted"),
            client.setattr(1, SETS_MODE, mode=0o777),
            client.setattr(1, SETS_SIZE),
            client.ask(nine_p.WRITE, 1, number(0, 8), 1, b"x"),
            client.ask(nine_p.FSYNC, 1, 0),
            client.ask(nine_p.REMOVE, 1),
        ):
            assert await client.refused(asking) in (("EROFS",) if gated else ("EROFS", "EBADF"))
        assert digest(place) == before

    run(work, gated=gated, read_only=True)


# --- sizes, floods, lies ---


def test_counts_are_bounded(run):
    """The server alone adds them up in 32 bits."""

    async def work(client, server):
        for count in (65536, 65536 - 23, 1 << 31, (1 << 32) - 24, (1 << 32) - 4, (1 << 32) - 1):
            await client.walk(ROOT, 1, "file")
            await client.open(1)
            await client.walk(ROOT, 2)
            await client.open(2)
            assert await client.refused(client.read(1, count=count)) == "EINVAL"
            assert await client.refused(client.ask(nine_p.READDIR, 2, number(0, 8), count)) == "EINVAL"
            assert await client.read(1) == b"of the folder"
            assert is_alive(server.pid, read_start_ticks(server.pid))

    run(work)


def test_the_size_of_messages_is_agreed_on_once(run):
    """The server alone takes what has come after a smaller one for as small, and copies over its memory."""

    async def work(client, _server):
        for size in (256, 8192, 65535, 65537, 1 << 31):
            asked = message(nine_p.VERSION, size, "9P2000.L")
            await client.send(asked + message(nine_p.STATFS, ROOT) * 1000)
            assert await client.receive() == (nine_p.RLERROR, number(71))  # EPROTO
            for _ in range(1000):
                assert (await client.receive())[0] == nine_p.STATFS + 1

    run(work)


WALK_MANY = message(nine_p.WALK, ROOT, 1, number(65535, 2))
GARBAGE = {
    "no size": bytes(4) + b"x" * 100,
    "a small size": number(6) + b"x" * 100,
    "a huge size": number((1 << 32) - 1) + b"x" * 100,
    "one byte too large": number(65537) + b"x" * 100,
    "no request": message(nine_p.WALK + 1, number(0, 2)),
    "no type": message(0),
    "too few bytes": message(nine_p.LOPEN, ROOT),
    "too many bytes": message(nine_p.CLUNK, ROOT, b"x"),
    "more names than bytes": WALK_MANY,
    "a name longer than the message": message(nine_p.WALK, ROOT, 1, number(1, 2), number(500, 2), b"x"),
    "more data than bytes": message(nine_p.WRITE, ROOT, number(0, 8), 500, b"x"),
    "less data than bytes": message(nine_p.WRITE, ROOT, number(0, 8), 0, b"x"),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_9p_ends_the_mount(run, place, data):
    async def work(client, server):
        before = digest(place)
        await client.send(data)
        with pytest.raises(EndedError):
            await client.receive()
        with pytest.raises(ProtocolError):
            await client.carrying
        await server.wait()
        assert digest(place) == before

    run(work)


def test_nothing_is_answered_before_a_version(run, place):
    async def work(client, _server):
        async with serve_folder(place, read_only=False) as other:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setblocking(False)
                theirs.setblocking(False)
                carrying = asyncio.create_task(nine_p.carry(theirs, other.sock, nine_p.Gate(read_only=False)))
                early = nine_p.Client(ours)
                assert await early.refused(early.attach()) == "EPROTO"
                assert await early.refused(early.ask(nine_p.VERSION, 65536, "9P2000")) == "EPROTO"
                await early.begin()
                carrying.cancel()
                await asyncio.gather(carrying, return_exceptions=True)

    run(work)


def test_a_hundred_thousand_fids_are_bounded(run):
    """Sent without waiting for an answer; the last third are numbers that nobody may have."""

    async def work(client, server):
        before, many = memory_kib(server.pid), 100_000

        async def flood():
            for at in range(1, many + 1):
                await client.send(message(nine_p.WALK, ROOT, at, number(1, 2), text("file")))

        flooding = asyncio.create_task(flood())
        answers = [await client.receive() for _ in range(many)]
        await flooding
        refused = [body for kind, body in answers if kind == nine_p.RLERROR]
        assert refused == [number(24)] * (many - 65535)  # EMFILE
        assert memory_kib(server.pid) - before < 64 << 10
        assert (await client.getattr(ROOT))[0] & stat.S_IFDIR

    run(work)


def test_fids_that_are_made_again_are_not_kept(run):
    """The server alone keeps each, with the file that it has open."""

    async def work(client, server):
        async def again(times):
            for _ in range(times):
                await client.walk(ROOT, 1, "file")
                await client.open(1)

        await again(100)
        memory, files = memory_kib(server.pid), len(os.listdir(f"/proc/{server.pid}/fd"))
        await again(5000)
        assert memory_kib(server.pid) - memory < 1024
        assert len(os.listdir(f"/proc/{server.pid}/fd")) == files

    run(work)


def test_open_files_are_bounded(run):
    async def work(client, server):
        opened = 0
        with pytest.raises(nine_p.RefusedError, match="EMFILE"):
            for fid in range(1, 6000):
                await client.walk(ROOT, fid, "file")
                await client.open(fid)
                opened = fid
        assert 4000 < opened < 4096
        await client.clunk(1)
        await client.open(opened + 1)
        assert is_alive(server.pid, read_start_ticks(server.pid))

    run(work)


def test_a_guest_that_does_not_read_holds_up_nobody_else(run, place):
    """It asks for all of a file again and again, and takes nothing of it."""

    async def work(client, server):
        (place / "large").write_bytes(bytes(1 << 20))
        await client.walk(ROOT, 1, "large")
        await client.open(1)
        before, own = memory_kib(server.pid), memory_kib(os.getpid())

        async def flood():
            while True:
                await client.send(message(nine_p.READ, 1, number(0, 8), 60000))

        flooding = asyncio.create_task(flood())
        async with served(place) as (other, _):
            for _ in range(200):
                await other.getattr(ROOT)
        assert not flooding.done()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        assert memory_kib(server.pid) - before < 4096
        assert memory_kib(os.getpid()) - own < 16 << 10

    run(work)


def test_a_flood_of_flushes_and_locks_costs_the_server_nothing(run, place):
    async def work(client, _server):
        await client.walk(ROOT, 1, "file")
        await client.open(1)
        for at in range(2000):
            assert await client.ask(nine_p.FLUSH, number(at, 2)) == b""
            lock = (number(at % 3, 1), 0, number(at, 8), number(10, 8), 7, "guest")
            assert await client.ask(nine_p.LOCK, 1, *lock) == b"\0"
        answer = await client.ask(nine_p.GETLOCK, 1, number(1, 1), number(3, 8), number(4, 8), 7, "guest")
        assert answer == bytes([2]) + number(3, 8) + number(4, 8) + number(7) + text("guest")
        # On the host, nothing is locked.
        with (place / "file").open() as file:
            subprocess.run(
                ["flock", "--nonblock", "--exclusive", str(file.fileno())], pass_fds=[file.fileno()], check=True
            )

    run(work)


def test_a_pipe_of_the_host_holds_up_nothing(run, place):
    async def work(client, _server):
        os.mkfifo(place / "pipe")
        await client.walk(ROOT, 1, "pipe")
        assert await client.refused(client.open(1, WRONLY)) == "ENXIO"
        await client.open(1)
        assert await client.refused(client.read(1)) == "ESPIPE"
        assert (await client.getattr(ROOT))[0] & stat.S_IFDIR

    run(work)


def test_a_file_has_a_largest_size(run, place):
    async def work(client, server):
        most = mounts_server._LARGEST_FILE
        await client.walk(ROOT, 1)
        await client.create(1, "large")
        assert await client.refused(client.write(1, b"x", offset=most)) == "EFBIG"
        await client.walk(ROOT, 2, "large")
        assert await client.refused(client.setattr(2, SETS_SIZE, size=most + 1)) == "EFBIG"
        assert await client.write(1, b"x") == 1
        assert is_alive(server.pid, read_start_ticks(server.pid))

    run(work)


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_neither_get_out_nor_end_the_server(run, place, seed):
    """Well-formed, and otherwise as chance has it."""

    async def work(client, server):
        chance = random.Random(seed)
        names = [*NAMES, "file", "sub", "deep", "new", "link"]
        (place / "link").symlink_to("../outside/secret")
        for at in range(4000):
            kind, layout = chance.choice(list(nine_p.LAYOUTS.items()))
            parts = [make_part(chance, letter, names) for letter in layout]
            if at % 20 == 0:
                await client.attach()
            await client.send(message(kind, *parts))
            await client.receive()
        assert is_alive(server.pid, read_start_ticks(server.pid))
        assert not [path for path in place.rglob("*") if path.is_symlink() and os.readlink(path) != "../outside/secret"]
        kinds = {stat.S_IFMT(path.lstat().st_mode) for path in place.rglob("*")}
        assert kinds <= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}

    run(work)


def make_part(chance, letter, names):
    """A part of a request; see the letters of ``nine_p.LAYOUTS``."""
    if letter == "f":
        return chance.choice([0, 1, 2, 3, 4, 5, 65535, 65536, nine_p.NOFID])
    if letter in "ns":
        return text(chance.choice(names))
    if letter == "w":
        chosen = [chance.choice(names[-5:] if chance.random() < 0.8 else names) for _ in range(chance.randrange(4))]
        return number(len(chosen), 2) + b"".join(map(text, chosen))
    if letter == "d":
        return number(3) + b"abc"
    if letter == "c":
        return number(chance.choice([0, 1, 100, 65000, 1 << 31, (1 << 32) - 1]))
    return number(
        chance.choice([0, 1, 2, 0o100, 0o1102, chance.getrandbits(8 * int(letter))]) % (1 << 8 * int(letter)),
        int(letter),
    )


# --- the server itself ---


def test_the_server_has_nothing_of_the_host(run, place):
    async def work(_client, server):
        proc, facts = Path(f"/proc/{server.pid}"), status(server.pid)
        assert {value[0] for name, value in facts.items() if name.startswith("Cap")} == {"0" * 16}
        assert (facts["Seccomp"], facts["NoNewPrivs"]) == (["2"], ["1"])
        spaces = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
        assert [
            name for name in spaces if os.readlink(proc / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")
        ] == []
        assert sorted(os.listdir(proc / "root")) == ["dev", "folder", "lib", "lib64", "usr"]
        assert int(facts["Threads"][0]) <= 6
        assert facts["Uid"][0] == str(place.stat().st_uid)
        words = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        assert str(place.parent).encode() not in words
        links = sorted(os.readlink(path).partition(":")[0] for path in (proc / "fd").iterdir())
        assert links == ["/dev/null", "pipe", "pipe", "socket"]

    run(work)


def test_its_death_ends_the_mount(run):
    async def work(client, server):
        os.kill(server.pid, 9)
        assert await server.wait() == -9
        with pytest.raises(EndedError):
            await client.getattr(ROOT)
        await client.carrying

    run(work)


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's folders are theirs")
def test_as_root_a_folder_is_served_with_its_owner_s_rights():
    """And what is made in it is theirs."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        folder = Path(top) / "folder"
        folder.mkdir()
        os.chown(folder, 12345, 12346)
        (folder / "root-s").write_text(SECRET)
        (folder / "root-s").chmod(0o600)

        async def work():
            async with served(folder) as (client, server):
                assert set(status(server.pid)["Uid"]) == {"12345"}
                assert set(status(server.pid)["Gid"]) == {"12346"}
                await client.walk(ROOT, 1, "root-s")
                assert await client.refused(client.open(1)) == "EACCES"
                await client.walk(ROOT, 2)
                await client.create(2, "new")
                facts = (folder / "new").stat()
                assert (facts.st_uid, facts.st_gid) == (12345, 12346)
                assert (await client.getattr(2))[1:] == (0, 0)

        asyncio.run(work())


# --- what cannot be served ---


def serve(folder):
    async def work():
        async with serve_folder(folder, read_only=True):
            raise AssertionError("it is served")

    asyncio.run(work())


def test_what_is_no_folder_is_refused(place):
    with pytest.raises(RequestError, match="it is no folder"):
        serve(place / "file")
    with pytest.raises(RequestError, match="No such file"):
        serve(place / "missing")


def test_without_diod_it_is_said_what_to_install(place, monkeypatch):
    monkeypatch.setattr(mounts_server, "BINARY", "diod-that-is-not-there")
    with pytest.raises(HostError, match="is not installed") as caught:
        serve(place)
    assert "apt install" in caught.value.hint


def test_hyperd_s_own_folders_are_not_shared(tmp_path):
    own = tmp_path / "home/.config/hyper-kernel"
    own.mkdir(parents=True)
    (tmp_path / "way-in").symlink_to(own)
    for folder in (own, own.parent, tmp_path / "home", Path("/"), own / "below", tmp_path / "way-in"):
        with pytest.raises(RequestError, match="hyperd keeps its own files"):
            check_apart(folder, [own])
    check_apart(tmp_path / "home/project", [own])
