"""Terminals in sandboxes, in jupyter_server_terminals' protocol, with programs of this host in the sandboxes' place."""

import asyncio
import json

import pytest

from jupyter_ext import terminals
from jupyter_ext.handlers import terminals as handlers
from tests.fakes.fixtures import shell
from tests.unit.ext_schema import check
from tests.unit.ext_server import serving

TERMINALS = "/hyper/api/terminals"


@pytest.fixture
def root(fake_home, tmp_path, monkeypatch):
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    return tmp_path


class Tab:
    """A browser's tab with a terminal in it."""

    def __init__(self, socket):
        self._socket = socket
        self.text = ""

    @classmethod
    async def open(cls, served, name):
        tab = cls(await served.connect(f"/hyper/terminals/websocket/{name}"))
        assert await tab.receive() == ["setup", {}]
        return tab

    async def receive(self):
        message = await asyncio.wait_for(self._socket.read_message(), 20)
        return message and json.loads(message)

    async def send(self, *message):
        await self._socket.write_message(json.dumps(message))

    async def type(self, line):
        await self.send("stdin", f"{line}\r")

    async def until(self, word):
        while word not in self.text:
            message = await self.receive()
            assert message is not None, self.text
            assert message[0] == "stdout", message
            self.text += message[1]
        return self.text

    async def until_end(self):
        while (message := await self.receive())[0] == "stdout":
            self.text += message[1]
        assert message == ["disconnect", 1]
        assert await self.receive() is None

    def close(self):
        self._socket.close()


def run(root, client, scenario):
    async def all_of_it():
        client.start(client.create(shell("sleep 1000"), "box").id)
        async with serving(root) as served:
            await scenario(served)

    asyncio.run(all_of_it())


async def open_one(served):
    answer = await served.ask("POST", TERMINALS, {"sandbox": "box"})
    check(answer, TERMINALS, "post")
    assert answer.status == 200, answer.text
    return answer.json["name"]


def test_a_shell_is_typed_to_and_seen_by_all(root, client):
    async def scenario(served):
        name = await open_one(served)
        first = await Tab.open(served, name)
        await first.send("set_size", 40, 100, 0, 0)
        await first.type("stty size; echo w''hat")
        assert "40 100" in await first.until("what")
        second = await Tab.open(served, name)
        await second.until("what")  # of before it came
        await second.send("set_size", 20, 120, 0, 0)
        await second.type("stty size; echo b''oth")
        assert "20 100" in await second.until("both")  # the smallest of each
        await first.until("both")
        second.close()
        await first.type("echo \N{SNOWMAN}, done")
        await first.until("\N{SNOWMAN}, done")
        check(await served.ask("GET", TERMINALS), TERMINALS, "get")
        check(await served.ask("GET", f"{TERMINALS}/{name}"), f"{TERMINALS}/{{name}}", "get")
        await first.type("exit")
        await first.until_end()
        assert await served.get(TERMINALS) == []

    run(root, client, scenario)


def test_it_ends_when_it_is_deleted_and_with_its_sandbox(root, client):
    async def scenario(served):
        first, second = await open_one(served), await open_one(served)
        assert first != second
        tab, other = await Tab.open(served, first), await Tab.open(served, second)
        answer = await served.ask("DELETE", f"{TERMINALS}/{first}")
        check(answer, f"{TERMINALS}/{{name}}", "delete")
        await tab.until_end()
        await asyncio.to_thread(client.kill, "box")
        await other.until_end()
        assert await served.get(TERMINALS) == []
        assert (await served.ask("DELETE", f"{TERMINALS}/{first}")).status == 404

    run(root, client, scenario)


def test_what_makes_no_sense_is_refused_or_ignored(root, client, monkeypatch):
    monkeypatch.setattr(terminals, "_MAX_TERMINALS", 1)
    monkeypatch.setattr(terminals, "_MAX_VIEWERS", 1)

    async def scenario(served):
        for body, status in [({}, 400), ({"sandbox": 1}, 400), ({"sandbox": "nobody"}, 404)]:
            answer = await served.ask("POST", TERMINALS, body)
            check(answer, TERMINALS, "post")
            assert answer.status == status
        name = await open_one(served)
        assert (await served.ask("POST", TERMINALS, {"sandbox": "box"})).status == 503
        tab = await Tab.open(served, name)
        for message in [
            "no JSON",
            "[]",
            "{}",
            '["stdin"]',
            '["stdin", 1]',
            '["set_size", -1, 2]',
            '["set_size", "a", 2]',
        ]:
            await tab._socket.write_message(message)
        await tab.type("echo st''ill")
        await tab.until("still")
        too_many = await served.connect(f"/hyper/terminals/websocket/{name}")
        assert await too_many.read_message() is None
        await served.ask("DELETE", f"{TERMINALS}/{name}")

    run(root, client, scenario)


def test_a_browser_that_does_not_read_costs_no_memory(root, client, monkeypatch):
    monkeypatch.setattr(handlers, "_MAX_WAITING", 10_000)
    monkeypatch.setattr(terminals, "_KEPT", 10_000)

    async def scenario(served):
        name = await open_one(served)
        tab, other = await Tab.open(served, name), await Tab.open(served, name)
        await tab.type("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo fi''nished")
        terminal = served.extension.terminals.get(name)
        held = 0

        async def watch():
            nonlocal held
            while True:
                held = max(held, *(viewer._waiting_size for viewer in terminal._viewers), len(terminal._kept))
                await asyncio.sleep(0)  # looks between all that the server does

        watching = asyncio.ensure_future(watch())
        while "finished" not in tab.text[-1000:]:
            tab.text = tab.text[-1000:] + (await tab.receive())[1]
        watching.cancel()
        assert held <= 10_000 + 64 * 1024
        other.close()
        await served.ask("DELETE", f"{TERMINALS}/{name}")

    run(root, client, scenario)
