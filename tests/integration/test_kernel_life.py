"""A kernel's whole life in a real virtual machine, through jupyter_client."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from jupyter_client.manager import KernelManager

from hyper_kernel.client import Client
from hyper_kernel.jupyter import kernelspec

START_S, CELL_S = 180, 60
#: How soon a killed part must be noticed, in seconds.
NOTICE_S = 5.0


@pytest.fixture
def manager(home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    kernelspec.install()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "numbers.txt").write_text("1 2 3")
    manager = KernelManager(kernel_name="hyper-python")
    manager.start_kernel(cwd=str(folder))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(manager):
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=START_S)
    yield client
    client.stop_channels()


def run(kernel, code, timeout=CELL_S):
    """What a cell prints, and its reply."""
    printed = []

    def collect(message):
        content = message["content"]
        printed.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    reply = kernel.execute_interactive(code, timeout=timeout, output_hook=collect, allow_stdin=False)
    return "".join(printed), reply["content"]


def reply_to(kernel, sent):
    """The reply to a message, past those that came for earlier ones."""
    while (reply := kernel.get_shell_msg(timeout=CELL_S))["parent_header"]["msg_id"] != sent:
        pass
    return reply["content"]


def wait_for_log(manager, words):
    """The log of a manager's sandbox, once these words are in it."""
    deadline = time.monotonic() + CELL_S
    while words not in (log := b"".join(piece for _, piece in Client().logs(manager.provisioner._sandbox)).decode()):
        assert time.monotonic() < deadline, log
        time.sleep(0.05)  # what it says comes beside its channels, when it comes
    return log


def record_of(manager):
    return Client().sandbox(manager.provisioner._sandbox)


def wait_ended(pid):
    """Wait for the end of a process that is not our child; one that init has yet to reap has ended."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        assert select.select([pidfd], [], [], NOTICE_S)[0]
        os.close(pidfd)


def wait_dead(manager):
    """Seconds until the manager sees its kernel dead."""
    started = time.monotonic()
    while manager.is_alive():
        assert time.monotonic() - started < NOTICE_S + 5
        time.sleep(0.05)  # the manager offers no event
    return time.monotonic() - started


def test_it_runs_elsewhere_and_sees_its_folder(manager, kernel, monkeypatch):
    printed, reply = run(
        kernel, "import os, platform; print(platform.release(), os.getcwd(), open('numbers.txt').read())"
    )
    assert reply["status"] == "ok"
    release, folder, *numbers = printed.split()
    assert release != os.uname().release
    assert folder == "/work"
    assert numbers == ["1", "2", "3"]
    assert reply["execution_count"] == 1


def test_the_servers_environment_stays_outside(home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hub-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "cloud-secret")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    kernelspec.install()
    manager = KernelManager(kernel_name="hyper-python")
    manager.start_kernel(cwd=str(tmp_path))
    kernel = manager.client()
    kernel.start_channels()
    try:
        kernel.wait_for_ready(timeout=START_S)
        # A kernel that was started in a template has its variables from a request, not from its start.
        printed, _ = run(kernel, "import os; print(open('/proc/self/environ').read(), dict(os.environ))")
        assert "PATH" in printed
        assert "secret" not in printed
        assert "HYPER_HOME" not in printed
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def test_its_log_is_what_its_process_wrote_also_before_it_was_restarted(manager, kernel):
    run(kernel, "get_ipython().kernel.log.error('said to its log')")
    wait_for_log(manager, "said to its log")
    kernel.execute("import os; os._exit(3)")
    wait_dead(manager)
    manager.restart_kernel(now=True)
    kernel.wait_for_ready(timeout=START_S)
    run(kernel, "get_ipython().kernel.log.error('said again')")
    log = wait_for_log(manager, "said again")
    assert log.index("said to its log") < log.index("said again")


def test_an_interrupt_ends_a_cell_and_its_children(manager, kernel):
    # With stop_on_error, the default, ipykernel aborts what comes right after a cell that failed.
    code = "import subprocess; print('go', flush=True); subprocess.run(['sleep', '1000'])"
    sent = kernel.execute(code, stop_on_error=False)
    while kernel.get_iopub_msg(timeout=CELL_S)["header"]["msg_type"] != "stream":
        pass
    manager.interrupt_kernel()
    assert reply_to(kernel, sent)["ename"] == "KeyboardInterrupt"
    printed, reply = run(kernel, "print(subprocess.run(['pgrep', '-x', 'sleep']).returncode)")
    assert reply["status"] == "ok", reply
    assert printed.strip() == "1"


@pytest.mark.parametrize("now", [False, True], ids=["soft", "hard"])
def test_a_restart_keeps_the_clients_and_the_files_and_forgets_the_names(manager, kernel, tmp_path, now):
    before = record_of(manager)
    run(kernel, "x = 1; open('kept.txt', 'w').write('yes'); import os; os.makedirs('a/b'); open('/tmp/mark', 'w')")
    (tmp_path / "notebooks/edited.py").write_text("answer = 42\n")
    manager.restart_kernel(now=now)
    kernel.wait_for_ready(timeout=START_S)
    code = "import os, edited; print('x' in globals(), open('kept.txt').read(), edited.answer, os.path.isdir('a/b'))"
    printed, reply = run(kernel, code)
    assert printed.split() == ["False", "yes", "42", "True"]
    assert reply["execution_count"] == 1
    after = record_of(manager)
    assert after.id == before.id
    assert after.qemu_pid != before.qemu_pid
    assert run(kernel, "print(os.path.exists('/tmp/mark'))")[0].strip() == "False"


def test_a_kernel_that_exits_is_dead_and_starts_again(manager, kernel):
    kernel.execute("import os; os._exit(7)")
    wait_dead(manager)
    assert (record_of(manager).exit_code, record_of(manager).death, manager.reason) == (7, "", "")
    manager.restart_kernel(now=True)
    kernel.wait_for_ready(timeout=START_S)
    assert run(kernel, "print(6 * 7)")[0].strip() == "42"


@pytest.mark.parametrize(
    ("part", "reason"), [("qemu_pid", "QEMU was killed by signal 9"), ("shim_pid", "the shim was killed")]
)
def test_a_killed_part_is_noticed_named_and_cleaned_up(manager, kernel, part, reason):
    kernel.execute("while True: pass")
    record = record_of(manager)
    os.kill(getattr(record, part), signal.SIGKILL)
    assert wait_dead(manager) < NOTICE_S
    assert manager.reason == f"host lost: {reason}"
    assert record_of(manager).death == "host lost"
    wait_ended(record.qemu_pid)
    manager.restart_kernel(now=True)
    kernel.wait_for_ready(timeout=START_S)
    assert run(kernel, "print('again')")[0].strip() == "again"


def test_a_killed_hyperd_costs_nothing(manager, kernel):
    run(kernel, "x = 41")
    sent = kernel.execute("import time; time.sleep(3); x += 1; print(x)")
    os.kill(Client().status()["pid"], signal.SIGKILL)
    assert reply_to(kernel, sent)["status"] == "ok"
    assert manager.is_alive()
    assert record_of(manager).state == "running"
    manager.interrupt_kernel()
    assert run(kernel, "print(x)")[0].strip() == "42"


def test_a_killed_server_takes_its_sandboxes_along(home, tmp_path):
    """A process that starts a kernel and is killed: nothing of the kernel outlives it for long."""
    code = (
        "import sys, time\n"
        "from jupyter_client.manager import KernelManager\n"
        "manager = KernelManager(kernel_name='hyper-python')\n"
        "manager.start_kernel()\n"
        "print('started', flush=True)\n"
        "time.sleep(1000)\n"
    )
    env = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}
    subprocess.run(
        [sys.executable, "-c", "from hyper_kernel.jupyter import kernelspec; kernelspec.install()"], env=env, check=True
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path, env=env) as server:
        assert server.stdout.readline() == b"started\n"
        (sandbox,) = Client().sandboxes()
        server.kill()
    ended = Client().wait_kernel(sandbox.id, NOTICE_S)
    assert ended["state"] == "exited"
    assert f"process {server.pid}" in ended["reason"]
    wait_ended(sandbox.qemu_pid)
