"""The pool as clients, the ``hyper`` program and Docker's clients see it, over a fake one."""

import json
import subprocess
import sys

import pytest

from hyper_kernel.client import Client
from hyper_kernel.errors import NotFoundError, RequestError
from tests.fakes.fixtures import start_daemon

HYPER = [sys.executable, "-c", "from hyper_kernel.cli.main import main; main()"]


def hyper(*words, code=0):
    done = subprocess.run([*HYPER, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_a_client_keeps_clones_and_sees_them(client):
    assert client.pool() == []
    (row,) = client.keep_parked(2, "hyper/python", memory_mib=256, cpus=2)
    assert row == client.pool()[0]
    assert row["image_id"] == client.image("hyper/python")["Id"]
    wanted = {"image": "hyper/python:latest", "memory_mib": 256, "cpus": 2, "kernel": "python3", "kept": 2, "parked": 2}
    assert wanted.items() <= row.items()
    client.keep_parked(1, programs=True)
    assert [(row["kernel"], row["kept"]) for row in client.pool()] == [("python3", 2), (None, 1)]
    assert client.status()["parked"] == 3
    assert ["Parked clones", "3"] in client.info()["DriverStatus"]
    assert client.sandboxes(everything=True) == []
    client.keep_parked(0, "hyper/python:latest", memory_mib=256, cpus=2)
    assert [row["kernel"] for row in client.pool()] == [None]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "count is missing"),
        ({"count": "3"}, "count='3' is not"),
        ({"count": True}, "count=True is not"),
        ({"count": 1.0}, "count=1.0 is not"),
        ({"count": -1}, "outside 0 to 64"),
        ({"count": 65}, "outside 0 to 64"),
        ({"count": 1, "memory_mib": 1}, "memory of 1 MiB"),
        ({"count": 1, "cpus": 99}, "99 CPUs"),
        ({"count": 1, "image": None}, "image=None is not"),
        ({"count": 1, "programs": 1}, "programs=1 is not"),
        ({"count": 1, "privileged": True}, "privileged=True is not"),
    ],
)
def test_a_wish_that_is_none_is_refused(client, body, says):
    with pytest.raises(RequestError, match=says):
        client._json("POST", "/hyper/v1/pool", body=body)
    with pytest.raises(NotFoundError, match="no image nowhere"):
        client.keep_parked(1, "nowhere")
    assert client.pool() == []


def test_hyperd_stays_for_those_that_asked_for_clones(fake_home):
    daemon = start_daemon("--idle-exit-s", "0.2")
    client = Client(start=False)
    client.keep_parked(1)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.wait(1)
    client.keep_parked(0)
    assert daemon.wait(5) == 0


def test_the_program_keeps_clones_and_lists_them(client):
    client.version()  # starts the fake hyperd; the program would start a real one
    table = hyper("pool", "keep", "2", "-m", "256m", "--programs").stdout.splitlines()
    assert table[0].split() == ["IMAGE", "MACHINE", "CPUS", "RUNS", "PARKED", "TARGET", "KEPT"]
    assert table[1].split() == ["hyper/python:latest", "256", "MiB", "1", "programs", "2", "2", "2"]
    assert hyper("pool", "ls").stdout.splitlines() == table
    (row,) = json.loads(hyper("pool", "ls", "--json").stdout)
    assert (row["kernel"], row["kept"], row["problem"]) == (None, 2, "")
    assert "kernel python3" in hyper("pool", "keep", "1", "hyper/python").stdout
    assert "parked     3 clones" in hyper("daemon", "status").stdout
    assert hyper("ps", "-aq").stdout == ""
    assert "programs" not in hyper("pool", "keep", "0", "-m", "256m", "--programs").stdout
    assert "there is no image nowhere" in hyper("pool", "keep", "1", "nowhere", code=1).stderr
    assert "Invalid value for 'count'" in hyper("pool", "keep", "x", code=2).stderr
