"""Kernels that outlive a server, as far as it can be shown without machines; the rest is in tests/integration."""

import asyncio
import base64
import sqlite3
import subprocess
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from jupyter_client.session import Session
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

from hyper_kernel.errors import HostError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from hyper_kernel.spec import Owner
from jupyter_ext import reattach, websocket
from jupyter_ext.sessions import SessionFile
from jupyter_ext.websocket import HyperWebsocketConnection
from tests.fakes.fixtures import kernel, wait_until
from tests.unit.ext_server import serving, start

V1 = "/hyper/api/v1"
NOTEBOOK = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "hyper-python"}}


@pytest.fixture
def root(fake_home, tmp_path, monkeypatch):
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setattr(reattach, "_INFO_S", 0.05)  # the fake has no kernel that could answer
    kernelspec.install()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


# -- sessions ---------------------------------------------------------------------------------------------------


def rows_of(path):
    with sqlite3.connect(path) as database:
        return sorted(row[0] for row in database.execute("SELECT session_id FROM session"))


def add_row(file, ident):
    with sqlite3.connect(file.path) as database:
        database.execute("INSERT INTO session VALUES (?, 'a', 'a', 'notebook', ?)", (ident, f"kernel-{ident}"))


def test_the_next_server_of_a_folder_has_the_sessions_of_the_last(fake_home):
    first = SessionFile(find_paths(), "/srv/a")
    add_row(first, "one")
    first.close()
    again = SessionFile(find_paths(), "/srv/a")
    assert again.kernel_ids() == {"kernel-one"}
    assert SessionFile(find_paths(), "/srv/b").kernel_ids() == set()


def test_servers_at_the_same_time_share_no_file_and_one_inherits_all(fake_home):
    first, second = SessionFile(find_paths(), "/srv"), SessionFile(find_paths(), "/srv")
    assert first.path != second.path
    add_row(first, "one")
    add_row(second, "two")
    first.close()
    second.close()
    third = SessionFile(find_paths(), "/srv")
    assert rows_of(third.path) == ["one", "two"]
    assert SessionFile(find_paths(), "/srv").kernel_ids() == set()


def test_a_file_that_is_none_is_begun_anew(fake_home):
    first = SessionFile(find_paths(), "/srv")
    first.close()
    first.path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    assert SessionFile(find_paths(), "/srv").kernel_ids() == set()


def test_sessions_are_for_this_user_alone(fake_home):
    path = SessionFile(find_paths(), "/srv").path
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_where_no_sessions_can_be_kept_it_is_said(fake_home):
    (fake_home / "state").write_text("a file, not a folder")
    with pytest.raises(HostError, match="cannot keep the server's sessions"):
        SessionFile(find_paths(), "/srv")
    (fake_home / "state").unlink()


# -- whole servers ----------------------------------------------------------------------------------------------


def test_a_killed_servers_kernel_is_found_by_the_next_and_by_no_other(root, tmp_path, client):
    async def scenario():
        first = await start(root)
        session = (await first.ask("POST", "/api/sessions", NOTEBOOK)).json
        ident, (before,) = session["kernel"]["id"], client.sandboxes()
        assert before.spec.owner.grace_s == 600
        await first.kill()

        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        async with serving(elsewhere) as other:
            assert await other.get("/api/kernels") == []

        async with serving(root) as second:
            (again,) = await second.get("/api/sessions")
            assert (again["id"], again["path"], again["kernel"]["id"]) == (session["id"], "a.ipynb", ident)
            manager = second.app.kernel_manager.get_kernel(ident)
            assert manager.has_kernel
            assert await manager.is_alive()
            assert manager.session.key.decode() != ""
            # What a restart needs is there, and clients find the kernel where it was.
            await asyncio.wait_for(manager.ready, 10)
            ip = manager.ip
            await manager.restart_kernel(now=True)
            (after,) = client.sandboxes()
            assert (after.id, manager.ip) == (before.id, ip)

    asyncio.run(scenario())
    assert client.sandboxes(everything=True) == []


def test_a_kernel_whose_server_lives_is_left_to_it(root, client):
    other = subprocess.Popen(["sleep", "1000"])
    owner = Owner(pid=other.pid, start_ticks=read_start_ticks(other.pid), grace_s=60)
    labels = {"hyper.kernel-id": "ab" * 16, "hyper.kernelspec": "hyper-python", "hyper.server-root": str(root)}
    client.start_kernel(kernel(labels=labels, owner=owner))

    async def scenario(expected):
        async with serving(root) as served:
            assert [each["id"] for each in await served.get("/api/kernels")] == expected

    asyncio.run(scenario([]))
    assert len(client.sandboxes()) == 1
    other.kill()
    other.wait()
    asyncio.run(scenario(["ab" * 16]))


def test_a_kernel_that_died_meanwhile_is_shown_with_its_reason_and_can_be_restarted(root, client):
    async def scenario():
        first = await start(root)
        ident = (await first.ask("POST", "/api/sessions", NOTEBOOK)).json["kernel"]["id"]
        (record,) = client.sandboxes()
        await first.kill()
        client.kill(record.id)
        wait_until(lambda: not client.sandboxes())

        async with serving(root) as second:
            (session,) = await second.get("/api/sessions")
            assert session["kernel"]["execution_state"] == "dead"
            assert session["kernel"]["reason"] == "killed"
            (shown,) = await second.get(f"{V1}/sandboxes")
            assert (shown["state"], shown["death"], shown["kernel"]["state"]) == ("exited", "killed", "dead")
            socket = await second.connect(f"/api/kernels/{ident}/channels?session_id=s")
            assert '"dead"' in await socket.read_message()
            socket.close()
            manager = second.app.kernel_manager.get_kernel(ident)
            await manager.restart_kernel()
            assert (manager.execution_state, await manager.is_alive()) == ("starting", True)
            assert client.sandboxes()[0].id == record.id

    asyncio.run(scenario())


def test_what_nobody_asks_for_any_more_is_removed(root, client):
    async def scenario():
        first = await start(root)
        await first.ask("POST", "/api/kernels", {"name": "hyper-python"})  # of no notebook
        (record,) = client.sandboxes()
        await first.kill()
        client.kill(record.id)
        async with serving(root) as second:
            assert await second.get("/api/kernels") == []
        assert client.sandboxes(everything=True) == []

    asyncio.run(scenario())


def test_off_keeps_nothing_alive(root, client):
    async def scenario():
        async with serving(root, HyperKernelApp={"reattach_kernels": False}) as served:
            await served.ask("POST", "/api/sessions", NOTEBOOK)
            assert client.sandboxes()[0].spec.owner.grace_s == 0

    asyncio.run(scenario())


# -- the websocket ----------------------------------------------------------------------------------------------


class Missed:
    """hyperd, as the websocket asks it."""

    def __init__(self, messages, is_cut=False, cut_before=-1):
        self.answer = {
            "messages": [
                {
                    "channel": channel,
                    "parts": [base64.b64encode(part).decode() for part in parts],
                    "follows_cut": number == cut_before,
                }
                for number, (channel, parts) in enumerate(messages)
            ],
            "is_cut": is_cut,
        }
        self.reader = SimpleNamespace(take_missed=lambda sandbox: self.answer)

    async def call(self, function, *args):
        return function(*args)


class Connected:
    """A websocket's connection to a kernel that was found again, without a kernel."""

    def __init__(self, missed, monkeypatch):
        self.sent = []
        self.session = Session(key=b"key")
        handler = Mock(spec=KernelWebsocketHandler)
        self.claims = claims = {"k": "box"}
        finder = SimpleNamespace(claim=lambda ident: claims.pop(ident, ""), give_back=claims.__setitem__)
        app = SimpleNamespace(reattach=finder, hyperd=missed)
        handler.settings = {"jupyter_ext": app}
        handler.selected_subprotocol = "v1.kernel.websocket.jupyter.org"
        handler.write_message = lambda data, binary=False: self.sent.append(data)
        kernels = AsyncMappingKernelManager()
        manager = ServerKernelManager(parent=kernels, kernel_id="k")
        self.nudged = asyncio.get_running_loop().create_future()
        base = websocket.ZMQChannelsWebsocketConnection
        monkeypatch.setattr(base, "connect", lambda connection: self.nudged)
        monkeypatch.setattr(base, "disconnect", lambda connection: None)
        self.connection = HyperWebsocketConnection(
            parent=manager, websocket_handler=handler, session=Session(key=b"key")
        )
        self.streams = {}
        for channel in ("iopub", "shell"):
            self.streams[channel] = Mock(channel=channel)
            self.streams[channel].closed.return_value = False
        self.connection.channels = self.streams
        self.connection.connect()

    def message(self, text, kind="stream", parent=None):
        """As a kernel sends it."""
        content = {"name": "stdout", "text": text}
        return self.session.serialize(self.session.msg(kind, content, parent=parent))

    def live(self, channel, parts):
        self.connection.handle_outgoing_message(self.streams[channel], parts)

    async def caught_up(self):
        self.nudged.set_result(None)
        await self.connection._task

    def texts(self):
        return [part.rpartition(b'"text": "')[2].partition(b'"')[0].decode() for part in self.sent]


def test_what_was_missed_comes_first_and_nothing_comes_twice(monkeypatch):
    async def scenario():
        missed = Missed([])
        made = Connected(missed, monkeypatch)
        one, two, three, four = (made.message(text) for text in ("one", "two", "three", "four"))
        missed.answer = Missed([("iopub", one), ("shell", two), ("iopub", three)]).answer
        made.live("iopub", three)  # both heard it
        made.live("iopub", four)
        assert made.sent == []
        await made.caught_up()
        made.live("iopub", made.message("five"))
        assert made.texts() == ["one", "two", "three", "four", "five"]

    asyncio.run(scenario())


def test_where_something_is_lost_is_said_in_the_cell(monkeypatch):
    async def scenario():
        missed = Missed([])
        made = Connected(missed, monkeypatch)
        cell = made.session.msg("execute_request", {})
        missed.answer = Missed([("iopub", made.message("one", parent=cell))], is_cut=True).answer
        made.live("iopub", made.message("two"))
        await made.caught_up()
        texts = made.texts()
        assert (texts[0], texts[2]) == ("one", "two")
        assert b"is lost" in made.sent[1]
        assert cell["header"]["msg_id"].encode() in made.sent[1]

    asyncio.run(scenario())


def test_where_something_is_lost_in_between_is_said_there(monkeypatch):
    async def scenario():
        missed = Missed([])
        made = Connected(missed, monkeypatch)
        cell = made.session.msg("execute_request", {})
        messages = [("iopub", made.message(text, parent=cell)) for text in ("first", "last")]
        missed.answer = Missed(messages, is_cut=True, cut_before=1).answer
        await made.caught_up()
        first, cut, last = made.texts()
        assert (first, last) == ("first", "last")
        assert "is lost" in cut
        assert cell["header"]["msg_id"].encode() in made.sent[1]

    asyncio.run(scenario())


def test_what_waits_is_bounded(monkeypatch):
    async def scenario():
        monkeypatch.setattr(websocket, "_MAX_HELD", 10_000)
        made = Connected(Missed([]), monkeypatch)
        for _ in range(100):
            made.live("iopub", made.message("x" * 500))
        await made.caught_up()
        assert 5 < len(made.sent) < 20
        assert b"is lost" in made.sent[0]

    asyncio.run(scenario())


def test_only_the_first_websocket_gets_what_was_missed(monkeypatch):
    async def scenario():
        missed = Missed([])
        made = Connected(missed, monkeypatch)
        missed.answer = Missed([("iopub", made.message("one"))]).answer
        await made.caught_up()
        made.connection.connect()
        made.live("iopub", made.message("two"))
        assert made.texts() == ["one", "two"]

    asyncio.run(scenario())


def test_one_that_leaves_at_once_leaves_it_to_the_next(monkeypatch):
    async def scenario():
        made = Connected(Missed([]), monkeypatch)
        assert made.claims == {}
        made.connection.disconnect()
        assert made.claims == {"k": "box"}
        other = Connected(Missed([]), monkeypatch)
        await other.caught_up()
        other.connection.disconnect()
        assert other.claims == {}

    asyncio.run(scenario())
