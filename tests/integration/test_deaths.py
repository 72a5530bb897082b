"""Limits that hold, and ends that have a name which people see: real machines, real clients."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from hyper_kernel.client import Client
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.spec import Limits, ProcessSpec, SandboxSpec

START_S, CELL_S = 180, 60
HYPER = (sys.executable, "-c", "from hyper_kernel.cli.main import main; main()")
#: Fills memory, the last of it page by page.
HOG = """import os
os.posix_fallocate(os.memfd_create("most"), 0, 300 << 20)
held = []
while True:
    held.append(bytearray(8 << 20))
    for at in range(0, 8 << 20, 4096): held[-1][at] = 1
"""
#: Has the guest's kernel fill it, which is faster.
FAST_HOG = "import os; os.posix_fallocate(os.memfd_create('held'), 0, 1 << 30)"
ENDLESS = (
    "while True:\n    try:\n        print('x' * 100_000, flush=True)\n    except KeyboardInterrupt:\n        pass\n"
)


@contextmanager
def started(tmp_path, **limits):
    """A kernel with limits: its manager and a client."""
    manager = KernelManager(
        kernel_name="hyper-python", config=Config({"HyperProvisioner": {"files": "none", **limits}})
    )
    manager.start_kernel(cwd=str(tmp_path))
    kernel = manager.client()
    kernel.start_channels()
    try:
        kernel.wait_for_ready(timeout=START_S)
        yield manager, kernel
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(autouse=True)
def kernelspecs(home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    kernelspec.install()


def run(kernel, code):
    """The reply to a cell, and all that came on its standard error."""
    said = []

    def collect(message):
        if message["content"].get("name") == "stderr":
            said.append(message["content"]["text"])

    reply = kernel.execute_interactive(
        code, timeout=CELL_S, output_hook=collect, allow_stdin=False, stop_on_error=False
    )
    return reply["content"], "".join(said)


def record_of(manager):
    return Client().sandbox(manager.provisioner._sandbox)


def wait_dead(manager):
    """Wait until the manager sees its kernel dead; the reason that it shows."""
    deadline = time.monotonic() + 10
    while manager.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # the manager offers no event
    return manager.reason


def hyper(*words):
    """What a command prints."""
    done = subprocess.run([*HYPER, *words], capture_output=True, text=True, timeout=CELL_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def end_of(argv, **limits):
    """How a program ends, and what its record says then."""
    client = Client()
    record = client.create(SandboxSpec(process=ProcessSpec(argv=argv), limits=Limits(**limits)))
    with client.waiting(record.id, "next-exit") as ends:
        client.start(record.id)
        end = next(ends)
    return end, client.sandbox(record.id)


def test_a_kernel_out_of_memory_is_named_wherever_people_look(tmp_path):
    began_s = time.time()
    with started(tmp_path) as (manager, _):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell(HOG)])
        with pytest.raises(CellExecutionError, match="DeadKernelError: out of memory: used all of its 512 MiB"):
            NotebookClient(notebook, km=manager, timeout=CELL_S).execute()
        said = [output.get("text", "") for output in notebook.cells[1].outputs if output.get("name") == "stderr"]
        assert "out of memory: used all of its 512 MiB\n" in said
        assert wait_dead(manager) == "out of memory: used all of its 512 MiB"
        record = record_of(manager)
        assert (record.death, record.exit_code, record.state) == ("out of memory", 137, "running")
        assert "(out of memory)" in hyper("ps")
        (facts,) = json.loads(hyper("inspect", record.name))
        assert facts["State"]["OOMKilled"]
        assert facts["State"]["Error"] == record.reason
        assert facts["Hyper"]["Death"] == "out of memory"
        Client().kill(record.id)
        assert "Exited (137, out of memory)" in hyper("ps", "-a")
        assert "out of memory" in (Client().paths.sandboxes / record.id / "shim.log").read_text()
        events = [(event["Action"], event["Actor"]["Attributes"].get("death")) for event in past_events(began_s)]
        assert ("oom", "out of memory") in events
        assert ("die", "out of memory") in events


def past_events(since_s):
    return list(Client().events(since=str(since_s), until=str(time.time())))


def test_a_dead_kernel_starts_again_without_its_name_and_may_end_without_one(tmp_path):
    with started(tmp_path) as (manager, kernel):
        assert run(kernel, FAST_HOG)[0]["evalue"] == "out of memory: used all of its 512 MiB"
        wait_dead(manager)
        manager.restart_kernel(now=True)
        kernel.wait_for_ready(timeout=START_S)
        assert manager.is_alive()
        assert (record_of(manager).death, record_of(manager).reason, manager.reason) == ("", "", "")
        kernel.execute("import os; os.kill(os.getpid(), 9)")
        assert wait_dead(manager) == ""
        assert (record_of(manager).exit_code, record_of(manager).death, record_of(manager).reason) == (137, "", "")


def test_a_program_out_of_memory(home):
    end, record = end_of(("sh", "-c", f'python3 -c "{FAST_HOG}"; exit $?'))
    assert (end.code, end.reason, record.death) == (137, "out of memory: used all of its 512 MiB", "out of memory")


def test_the_wall_limit(tmp_path):
    with started(tmp_path, wall_s=4) as (manager, kernel):
        reply, said = run(kernel, "import time; time.sleep(60)")
        assert reply["evalue"] == "wall limit: it ran for 4 s, as long as it may"
        assert reply["evalue"] in said
        assert wait_dead(manager) == reply["evalue"]
        assert "Exited (137, wall limit)" in hyper("ps", "-a")


def test_a_cell_over_its_time_is_interrupted_and_killed_if_it_does_not_heed_that(tmp_path):
    with started(tmp_path, cell_s=1.5) as (manager, kernel):
        reply, said = run(kernel, "import signal, time; x = 41; time.sleep(60)")
        assert reply["ename"] == "KeyboardInterrupt"
        assert "[cell limit: the cell ran for 1.5 s, as long as it may, and was interrupted]" in said
        assert record_of(manager).death == ""
        reply, _ = run(kernel, "assert x == 41; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)")
        words = "cell limit: the cell ran for 1.5 s, as long as it may, and went on when it was interrupted"
        assert reply["evalue"] == words
        assert wait_dead(manager) == words
        assert record_of(manager).death == "cell limit"


def test_a_cell_that_shows_too_much_is_interrupted_and_then_killed(tmp_path):
    with started(tmp_path, output_bytes=1 << 20) as (manager, kernel):
        assert run(kernel, "while True: print('x' * 100_000, flush=True)")[0]["ename"] == "KeyboardInterrupt"
        assert run(kernel, "print('x')")[0]["status"] == "ok"
        reply, said = run(kernel, ENDLESS)
        assert reply["evalue"].startswith("output limit: the cell has shown 1 MiB, as much as it may")
        assert "and was interrupted" in said
        assert wait_dead(manager) == reply["evalue"]


def test_a_full_disk(home):
    end, record = end_of(("sh", "-c", "dd if=/dev/zero of=/big bs=1M"), scratch_mib=32)
    assert (end.code, end.reason, record.death) == (1, "disk full: wrote all of its 32 MiB", "disk full")


def test_too_many_processes(home):
    end, _ = end_of(("sh", "-c", "while :; do sleep 100 & done"), processes=64)
    assert (end.code, end.reason) == (2, "too many processes: started all of its 64")


def test_a_fork_bomb_is_bounded_and_felt_by_nobody_else(home):
    client = Client()
    argv = ("sh", "-c", "b() { b | b & }; b; sleep 100")
    bomb = client.create(SandboxSpec(process=ProcessSpec(argv=argv), limits=Limits(processes=64)))
    other = client.create(SandboxSpec(process=ProcessSpec(argv=("sleep", "100"))))
    before = processes_in(client, other)
    deadline = time.monotonic() + CELL_S
    while (count := processes_in(client, bomb)) < before + 50:  # its agent answers, whatever goes on beside it
        assert time.monotonic() < deadline, count
    assert count <= before + 64
    assert hyper("exec", other.id, "echo", "here") == "here\n"
    assert liveness_of(other.id) == "idle"


def processes_in(client, record):
    """How many processes the guest of a sandbox has, which is started where it was not."""
    if client.sandbox(record.id).state == "created":
        client.start(record.id)
    return client.stats(record.id)["pids_stats"]["current"]


def test_a_guest_that_panics(tmp_path):
    with started(tmp_path) as (manager, kernel):
        reply, said = run(kernel, "open('/proc/sysrq-trigger', 'w').write('c')")
        assert reply["evalue"] == "guest panic: sysrq triggered crash"
        assert reply["evalue"] in said
        assert wait_dead(manager) == reply["evalue"]


def test_a_killed_sandbox_ends_its_cell_by_name(tmp_path):
    with started(tmp_path) as (manager, kernel):
        asked = kernel.execute("import time; time.sleep(60)")
        while kernel.get_iopub_msg(timeout=CELL_S)["header"]["msg_type"] != "execute_input":
            pass
        Client().kill(record_of(manager).id)
        while (reply := kernel.get_shell_msg(timeout=CELL_S))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["evalue"] == "killed"
        assert wait_dead(manager) == "killed"


def test_liveness_is_measured_by_the_host(tmp_path):
    with started(tmp_path) as (manager, kernel):
        assert run(kernel, "1")[0]["status"] == "ok"
        record = record_of(manager)
        wait_liveness(record.id, "idle")
        kernel.execute("while True: pass")
        wait_liveness(record.id, "busy")
        assert "(busy)" in hyper("ps")
        os.kill(record.qemu_pid, signal.SIGSTOP)
        wait_liveness(record.id, "hung")
        assert "(hung)" in hyper("ps")
        os.kill(record.qemu_pid, signal.SIGCONT)
        wait_liveness(record.id, "busy")


def liveness_of(ident):
    return next(record.liveness for record in Client().sandboxes(liveness=True) if record.id == ident)


def wait_liveness(ident, wanted):
    deadline = time.monotonic() + 20
    while (found := liveness_of(ident)) != wanted:
        assert time.monotonic() < deadline, found
