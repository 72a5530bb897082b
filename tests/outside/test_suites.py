"""Each suite: nothing fails but what the README lists, and what it lists does fail."""

import judge
import pytest
import workshop
from suites import SUITES

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.paths import find_paths

pytestmark = pytest.mark.timeout(0)  # each suite has a budget of its own


@pytest.fixture(scope="session")
def python():
    return workshop.make_environment()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """For one suite; afterwards no sandbox of it lives."""
    yield tmp_path
    monkeypatch.setenv("HYPER_HOME", str(tmp_path / "home"))
    client = Client()
    for sandbox in client.sandboxes(everything=True):
        client.remove(sandbox.id, force=True)
    stop_daemon(find_paths())


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name.replace(" ", "-"))
def test_suite(suite, python, folder, capsys):
    log = workshop.CACHE / f"{suite.name.replace(' ', '-')}.log"
    verdict = judge.run_suite(suite, python, folder, log)
    with capsys.disabled():
        print(f"\n{suite.name}: {verdict} (log: {log})")
    known = [row for row in judge.read_known() if row.suite == suite.name]
    assert verdict.outcomes, f"no test ran:\n{verdict.output[-4000:]}"
    assert not verdict.surprises(known), verdict.output[-20000:]
    assert not verdict.mended(known), "these pass: take them off the list in tests/outside/README.md"


def test_the_list_names_our_suites_alone():
    assert {row.suite for row in judge.read_known()} <= {suite.name for suite in SUITES}
