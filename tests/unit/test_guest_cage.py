"""The cgroup around the user's programs, as the agent uses it; what it holds is tested in real guests."""

from pathlib import Path

import pytest

from guest.cage import Cage
from hyper_kernel.wire import Type
from tests.unit.guest_peer import make_cage, request, start_agent


@pytest.fixture
def agent(tmp_path):
    with start_agent(tmp_path) as peer:
        yield peer


def test_it_says_what_its_processes_met(tmp_path):
    strain = Cage(str(make_cage(tmp_path)), "/").read_strain()
    assert strain.pop("scratch_free") > 0
    assert strain == {"oom_kills": 1, "forks_refused": 3, "processes": 7}


@pytest.mark.parametrize(("processes", "text"), [(0, "max"), (64, "64")])
def test_its_limit_is_pids_max(tmp_path, processes, text):
    folder = make_cage(tmp_path)
    Cage(str(folder), "/").limit(processes)
    assert (folder / "pids.max").read_text() == text


def test_resync_limits_and_each_child_enters_before_its_program(agent, tmp_path):
    agent.ready()
    assert (tmp_path / "cage/pids.max").read_text() == "100"
    entrance = tmp_path / "cage/cgroup.procs"
    assert entrance.read_text() == ""
    assert agent.exec("cat", str(entrance)).receive_all()[1] == b"0"


def test_resync_without_a_number_of_processes_is_refused(agent):
    assert request(agent.meet(), "resync", image={})["error"] == "argument 'processes' is missing"


def test_only_a_failure_is_explained(agent):
    agent.ready()
    assert agent.exec("true").receive_all()[0] == {"code": 0, "signal": None}
    end = agent.exec("false").receive_all()[0]
    assert (end["code"], end["oom_kills"], end["forks_refused"]) == (1, 1, 3)
    assert end["scratch_free"] > 0


def test_a_ping_costs_nothing_and_needs_resync(agent):
    control = agent.meet()
    assert request(control, "ping")["error"] == "ping came before resync"
    assert request(agent.ready(), "ping") == {"id": 1, "result": {}}


def test_folders_go_in_from_inside_too(agent, tmp_path):
    agent.ready()
    stream = agent.dial()
    assert stream.open("put", path=str(tmp_path / "in"), base=False)[0] is Type.OPENED
    stream.send(Type.STDIN_EOF)
    stream.receive_all()
    assert Path(tmp_path / "cage/cgroup.procs").read_text() == "0"
