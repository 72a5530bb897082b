"""What people see of hyperd's policy: in Jupyter, with docker, and when a real machine has used up its time."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from jupyter_client.manager import KernelManager

from hyper_kernel.client.http import UnixConnection
from hyper_kernel.errors import DeniedError, NotFoundError
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.accel import recall_tier
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox.record import State
from hyper_kernel.spec import ProcessSpec, SandboxSpec
from tests.fakes.fixtures import wait_until

HYPER = [sys.executable, "-c", "from hyper_kernel.cli.main import main; main()"]
BURN = SandboxSpec(process=ProcessSpec(argv=("python3", "-c", "while True: pass")))


@pytest.fixture
def write(home):
    """Writes the policy's file."""
    return lambda text: (home / "policy.toml").write_text(text)


@pytest.fixture
def greedy(home, tmp_path, monkeypatch):
    """A kernelspec, as any user can write one, that asks for 8 GiB."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    path = kernelspec.install() / "kernel.json"
    spec = json.loads(path.read_text())
    spec["metadata"]["kernel_provisioner"]["config"] = {"memory_mib": 8192}
    path.write_text(json.dumps(spec))
    return f"memory of 8192 MiB is above the cap of 1024 MiB (sandbox.memory_mib in {home}/policy.toml)"


@pytest.fixture
def server(tmp_path):
    """A Jupyter server, by the path of its socket."""
    path = tmp_path / "j.sock"
    words = ["--no-browser", f"--sock={path}", "--IdentityProvider.token=t", "--ServerApp.open_browser=False"]
    words += ["--allow-root", f"--ServerApp.root_dir={tmp_path}"]
    child = subprocess.Popen([sys.executable, "-m", "jupyter_server", *words], cwd=tmp_path)
    try:
        wait_until(path.exists, timeout_s=60.0)
        yield path
    finally:
        child.terminate()
        child.wait(20)


def post(path, url, body):
    connection = UnixConnection(path, timeout_s=60.0)
    connection.request("POST", url, json.dumps(body), {"Authorization": "token t", "Host": "localhost"})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def test_jupyter_shows_the_cap_that_a_kernelspec_is_above(write, greedy, server):
    write("[sandbox]\nmemory_mib = 1024\n")
    with pytest.raises(DeniedError) as caught:
        KernelManager(kernel_name="hyper-python").start_kernel()
    assert str(caught.value) == greedy
    # What JupyterLab asks for when a notebook is opened, and the text of the dialog that it shows.
    session = {"path": "a.ipynb", "type": "notebook", "name": "", "kernel": {"name": "hyper-python"}}
    status, answer = post(server, "/api/sessions", session)
    assert (status, answer["message"]) == (500, greedy)


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker program is not installed")
def test_docker_shows_the_cap(client, write, home, monkeypatch):
    write("[sandbox]\nmemory_mib = 1024\n")
    client.version()
    env = {**os.environ, "DOCKER_HOST": f"unix://{find_paths().socket}", "DOCKER_CONFIG": str(home / "docker")}
    words = ["docker", "run", "--rm", "--memory", "2g", "hyper/python", "true"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    says = f"memory of 2048 MiB is above the cap of 1024 MiB (sandbox.memory_mib in {home}/policy.toml)"
    assert says in done.stderr


def test_a_host_that_isolates_too_weakly_starts_nothing(client, write):
    write('[isolation]\ntier = "hardware"\n')
    record = client.create(SandboxSpec(process=ProcessSpec(argv=("true",))))
    known = recall_tier(find_paths().tier, get_guest(find_paths()).kernel)
    if known and known.tier == "hardware":
        client.start(record.id)
        return
    with pytest.raises(DeniedError, match=r"this host isolates by software only \(.*\), and hardware is required"):
        client.start(record.id)
    assert client.sandbox(record.id).state is State.CREATED


def test_a_machine_that_has_used_up_the_users_time_is_ended(client, write):
    record = client.create(BURN)
    client.start(record.id)
    write("[user]\ncpu_s_per_day = 1\n")
    with client.waiting(record.id, "not-running") as ends:
        assert next(ends).reason.startswith("cpu limit: all of today's 1 s of processor time are used up")
    ended = client.sandbox(record.id)
    assert (ended.death, ended.state) == ("cpu limit", State.EXITED)
    assert 1 < ended.cpu_s <= client.policy()["user"]["cpu_s_per_day"]["used"] + 0.1


def test_a_client_that_vanishes_leaves_no_sandbox(client):
    script = "print('up', flush=True); import time; time.sleep(1000)"
    child = subprocess.Popen([*HYPER, "run", "--rm", "hyper/python", "python3", "-c", script], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    (record,) = client.sandboxes()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    wait_until(lambda: is_gone(client, record.id), timeout_s=10.0)


def is_gone(client, ident):
    try:
        client.sandbox(ident)
    except NotFoundError:
        return True
    return False
