"""Events and metrics of the extension."""

import asyncio
import json
import re
import time

import pytest
from jupyter_events import EventLogger
from prometheus_client import REGISTRY

from jupyter_ext import watch
from jupyter_ext.hyperd import Hyperd
from jupyter_ext.models import Usage
from jupyter_ext.tell import Teller, as_events
from jupyter_ext.watch import Watch
from tests.fakes.fixtures import shell
from tests.unit.ext_server import serving

V1 = "/hyper/api/v1"


@pytest.fixture
def root(fake_home, tmp_path, monkeypatch):
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setattr(watch, "_LOOK_S", 0.05)
    return tmp_path


def event(action, **attributes):
    """One of hyperd's."""
    known = {"name": "n", "image": "i", "hyper.kernel-id": "k"}
    return {"Type": "container", "Action": action, "Actor": {"ID": "ab", "Attributes": known | attributes}}


def test_hyperds_events_in_our_words():
    told = [
        (each["action"], each["death"], each["exit_code"])
        for each in (
            *as_events(event("create")),
            *as_events(event("start")),
            *as_events(event("attach")),
            *as_events(event("exec_start: sh")),
            *as_events(event("oom", death="out of memory")),
            *as_events(event("die", exitCode="137", death="out of memory")),
            *as_events(event("die", exitCode="137", death="wall limit"), "wall limit: 3 s"),
            *as_events(event("destroy")),
            *as_events({"Type": "image", "Action": "create", "Actor": {"ID": "x", "Attributes": {}}}),
        )
    ]
    assert told == [
        ("start", "", -1),
        ("ready", "", -1),
        ("death", "out of memory", -1),
        ("exit", "out of memory", 137),
        ("death", "wall limit", -1),
        ("exit", "wall limit", 137),
        ("removed", "", -1),
    ]


def test_names_of_deaths_do_not_grow_without_bound():
    teller = Teller(EventLogger())
    for number in range(100):
        teller.tell(event("die", exitCode="1", death=f"death {number}"))
    assert len(teller.deaths) == 33
    assert teller.deaths["other"] == 68


def test_the_share_of_a_processor_is_of_the_time_between():
    first = Usage(measured_s=10.0, memory_bytes=1, cpu_s=4.0)
    assert first.after(None).cpu_percent is None
    second = Usage(measured_s=12.0, memory_bytes=1, cpu_s=5.0).after(first)
    assert second.cpu_percent == 50.0
    # One that was started again begins anew.
    assert Usage(measured_s=14.0, memory_bytes=1, cpu_s=0.5).after(second).cpu_percent is None


def test_subscribers_hear_a_whole_life(root, client):
    async def scenario():
        async with serving(root) as served:
            socket = await served.connect("/api/events/subscribe")
            await asyncio.to_thread(live_and_die, client)
            heard = []
            while not heard or heard[-1]["action"] != "removed":
                heard.append(json.loads(await asyncio.wait_for(socket.read_message(), 30)))
            assert [(each["action"], each["death"]) for each in heard] == [
                ("start", ""),
                ("ready", ""),
                ("death", "killed"),
                ("exit", "killed"),
                ("removed", ""),
            ]
            assert {each["schema_id"] for each in heard} == {"https://events.hyper-kernel.org/sandbox/v1"}
            socket.close()
            assert 'hyper_deaths_total{death="killed"} 1.0' in await served.get("/metrics")

    asyncio.run(scenario())


def live_and_die(client):
    client.start(client.create(shell("sleep 1000"), "box").id)
    client.kill("box")
    client.wait("box")
    client.remove("box")


def test_a_scrape_shows_what_is_measured(root, client):
    async def scenario():
        client.start(client.create(shell("while true; do :; done"), "box").id)
        async with serving(root, HyperKernelApp={"sample_s": 0.05}) as served:
            deadline = time.monotonic() + 30
            while True:
                text = await served.get("/metrics")
                memory = re.search(r"^hyper_memory_bytes (\S+)$", text, re.MULTILINE)
                if float(memory[1]) and 'hyper_sandboxes{state="running"} 1.0' in text:
                    break
                assert time.monotonic() < deadline, text
                await asyncio.sleep(0.05)
            (shown,) = await served.get(f"{V1}/sandboxes")
            assert shown["usage"]["memory_bytes"] > 0
            assert shown["usage"]["measured_s"] > 0
        assert "hyper_sandboxes" not in [metric.name for metric in REGISTRY.collect()]

    asyncio.run(scenario())


def test_nothing_is_asked_of_hyperd_while_nothing_lives(root, client, monkeypatch):
    """Else it could never leave."""

    monkeypatch.setattr(watch, "_SLICE_S", 0.1)

    async def scenario():
        calls = []

        class Counting(Hyperd):
            async def call(self, function, *args, **kwargs):
                calls.append(function.__name__)
                return await super().call(function, *args, **kwargs)

        client.remove(client.create(shell("true"), "box").id)
        watching = Watch(Counting(), lambda event, reason: None, sample_s=0.01)
        watching.start()
        watching.touch()
        while "status" not in calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        calls.clear()
        await asyncio.sleep(0.3)  # nothing is to happen
        assert calls == []
        await watching.stop()

    asyncio.run(scenario())
