"""The provisioner's rules that need no sandbox."""

import asyncio
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from jupyter_client.kernelspec import KernelSpec

from hyper_kernel.errors import BusyError, NotFoundError
from hyper_kernel.jupyter.environment import select_environment
from hyper_kernel.jupyter.provisioner import HyperProvisioner
from hyper_kernel.jupyter.wishes import Wish
from hyper_kernel.spec import KernelSpec as Wanted
from hyper_kernel.spec import SandboxSpec


@pytest.fixture
def provisioner():
    made = HyperProvisioner(kernel_id="k", kernel_spec=KernelSpec(argv=["python3"], env={"MINE": "1"}))
    made._folder = "/home/ada/notebooks"
    return made


def test_only_named_variables_enter_the_guest():
    env = {
        "JUPYTERHUB_API_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "HOME": "/home/ada",
        "PATH": "/usr/bin",
        "JPY_SESSION_NAME": "/home/ada/a.ipynb",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "MINE": "1",
        "EXTRA_1": "2",
        "IPYKERNEL_CELL_NAME": "<cell>",
    }
    assert select_environment(env, ["MINE"], ["EXTRA_*"]) == (
        "EXTRA_1=2",
        "IPYKERNEL_CELL_NAME=<cell>",
        "LC_ALL=C.UTF-8",
        "MINE=1",
        "TZ=UTC",
    )


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/work/a.py", "a.py"),
        ("sub/a.py", "sub/a.py"),
        ("sub/../a.py", "a.py"),
        ("missing.py", None),
        ("link.py", None),
        ("/work/../etc/shadow", None),
        ("../../etc/shadow", None),
        ("/etc/passwd", None),
        ("/tmp/ipykernel_1/1.py", None),
        ("/workshop/a", None),
    ],
)
def test_paths_of_the_guest_resolve_to_files_inside_the_folder_only(provisioner, tmp_path, path, host):
    (tmp_path / "sub").mkdir()
    for name in ("a.py", "sub/a.py"):
        (tmp_path / name).touch()
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    provisioner._folder = str(tmp_path)
    assert provisioner.resolve_path(path) == (host and str(tmp_path / host))


def test_signals_to_a_kernel_that_is_gone_raise_nothing(provisioner):
    def gone(*args):
        raise NotFoundError("no such sandbox")

    provisioner._client = SimpleNamespace(signal_kernel=gone)
    provisioner._running = True
    asyncio.run(provisioner.send_signal(2))


def test_a_kernel_whose_record_is_gone_is_dead(provisioner):
    def gone(*args):
        raise NotFoundError("no such sandbox")

    provisioner._client = SimpleNamespace(kernel=gone, wait_kernel=gone)
    provisioner._running, provisioner._sandbox = True, "abc"
    assert asyncio.run(provisioner.poll()) == 137
    assert provisioner.has_process
    assert asyncio.run(provisioner.wait()) == 137
    assert not provisioner.has_process


def test_the_reason_of_a_death_reaches_the_manager(provisioner):
    death = {"state": "exited", "exit_code": 137, "reason": "guest panic"}
    provisioner.parent = None
    manager = SimpleNamespace(reason="")
    object.__setattr__(provisioner, "_client", SimpleNamespace(kernel=lambda sandbox: death))
    provisioner._running = True
    provisioner._trait_values["parent"] = manager
    assert asyncio.run(provisioner.poll()) == 137
    assert manager.reason == "guest panic"


def test_required_encryption_is_refused_and_not_ignored(provisioner):
    with pytest.raises(RuntimeError, match="CurveZMQ"):
        asyncio.run(provisioner.pre_launch(env={}, transport_encryption="required"))


def test_cleanup_twice_and_before_any_start_does_nothing(provisioner):
    asyncio.run(provisioner.cleanup())
    asyncio.run(provisioner.cleanup())


def test_arguments_of_the_caller_follow_the_kernelspecs(provisioner):
    manager = SimpleNamespace(session=SimpleNamespace(key=b"k", signature_scheme="hmac-sha256"))
    provisioner._trait_values["parent"] = manager
    asyncio.run(provisioner.pre_launch(env={}, extra_arguments=["--HistoryManager.hist_file=:memory:"]))
    assert provisioner._kernel_spec({}, Wish()).arguments == ("--HistoryManager.hist_file=:memory:",)


def test_who_restarts_a_kernel_that_is_being_restarted_waits_for_its_turn(provisioner):
    """As a person does beside a manager's restarter: the machine that starts is none that does not obey."""
    begun, go, done = threading.Event(), threading.Event(), []

    def restart(sandbox, kernel, machine):
        begun.set()
        assert go.wait(10)
        done.append("started")
        return {"transport": "ipc", "ip": "/ab"}

    def signal(sandbox, number):
        done.append("killed")

    def look(*args):
        return {"state": "running", "exit_code": 137 if done[-1] == "killed" else -1, "reason": ""}

    async def work():
        launching = asyncio.create_task(provisioner.launch_kernel([], env={}))
        await asyncio.to_thread(begun.wait, 10)
        killing = asyncio.create_task(provisioner.kill(restart=True))
        assert await provisioner.poll() is None, "nobody else needs to start it again"
        go.set()
        await asyncio.gather(launching, killing)
        assert await provisioner.poll() == 137
        await provisioner.launch_kernel([], env={})
        assert await provisioner.poll() is None

    session = SimpleNamespace(key=b"k", signature_scheme="hmac-sha256")
    provisioner._trait_values["parent"] = SimpleNamespace(session=session, reason="")
    provisioner._sandbox, provisioner._running = "ab" * 32, True
    provisioner._client = SimpleNamespace(
        restart_kernel=restart, signal_kernel=signal, kernel=look, wait_kernel=look, remove_kernel=done.append
    )
    asyncio.run(work())
    assert done == ["started", "killed", "started"]


def test_a_restart_that_finds_no_room_keeps_the_sandbox(provisioner):
    """What its kernel wrote goes to the machine of a later attempt."""

    def restart(sandbox, kernel, machine):
        raise BusyError("no memory for another sandbox")

    provisioner._client, provisioner._sandbox = SimpleNamespace(restart_kernel=restart), "ab" * 32
    with pytest.raises(BusyError):
        asyncio.run(provisioner._restart(SandboxSpec(kernel=Wanted()), Wish()))
    assert provisioner._sandbox == "ab" * 32


def test_a_forked_process_can_call_on_the_loop_it_inherited(provisioner):
    """As nbclient does in a process pool: the loop's own threads are not there."""
    provisioner._client = SimpleNamespace(kernel=lambda sandbox: {"state": "exited", "exit_code": 3, "reason": ""})
    provisioner._running = True
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, int), 10))
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(loop.run_until_complete(asyncio.wait_for(provisioner.poll(), 10)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_a_program_that_ends_can_still_shut_its_kernel_down():
    """As nbclient does, in a callback of atexit."""
    code = (
        "import asyncio, atexit\n"
        "from types import SimpleNamespace\n"
        "from jupyter_client.kernelspec import KernelSpec\n"
        "from hyper_kernel.jupyter.provisioner import HyperProvisioner\n"
        "made = HyperProvisioner(kernel_id='k', kernel_spec=KernelSpec(argv=['python3']))\n"
        "made._client = SimpleNamespace(remove_kernel=lambda sandbox: print('removed', sandbox))\n"
        "made._sandbox = 'abc'\n"
        "atexit.register(lambda: asyncio.run(made.cleanup()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("removed abc\n", "")
