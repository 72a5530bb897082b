"""What a shim has given up: seen in a real one, and tried out in a process that has done the same."""

import errno
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyper_kernel.host.confine import TO_GO_ON, confine_after_start, confine_before_start, keep_capabilities
from hyper_kernel.host.landlock import find_version
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.confined import find_python, plan_walls
from hyper_kernel.spec import KernelSpec, ProcessSpec, SandboxSpec

REFUSED = {"EPERM", "EACCES", "ENOSYS"}
needs_landlock = pytest.mark.skipif(find_version() == 0, reason="this host's kernel has no Landlock")


def in_child(*attempts):
    """How each ended, by name, in a process of its own: what is given up stays so."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        found = {}
        for attempt in attempts:
            try:
                found[attempt.__name__] = attempt() or "done"
            except OSError as exc:
                found[attempt.__name__] = errno.errorcode.get(exc.errno, str(exc))
            except BaseException as exc:
                found[attempt.__name__] = repr(exc)
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


@pytest.fixture
def place(tmp_path):
    """Folders as a shim knows them, and a record."""
    paths = Paths(data=tmp_path / "data", state=tmp_path / "state", run=tmp_path / "run", config=tmp_path / "config")
    spec = SandboxSpec(image="x", kernel=KernelSpec(key="k" * 16, folder=str(tmp_path / "notebooks")))
    record = Record(id="a" * 64, name="ada", spec=spec, image_id="sha256:x", created_s=time.time())
    other = paths.sandboxes / ("b" * 64)
    for folder in (paths.sandboxes / record.id, other, paths.sandbox_run(record.id), paths.channels("x").parent):
        folder.mkdir(parents=True)
    for folder in (paths.data, tmp_path / "notebooks", tmp_path / "home"):
        folder.mkdir()
    for file in (other / "record.json", tmp_path / "notebooks/a.ipynb", tmp_path / "home/key"):
        file.write_text("text")
    return tmp_path, paths, record


@pytest.fixture
def victim():
    """Another process of this user."""
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


@needs_landlock
def test_a_shim_that_is_taken_over_has_its_own_sandbox_and_no_more(place, victim):
    root, paths, record = place
    own, run = paths.sandboxes / record.id, paths.sandbox_run(record.id)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0hyper-{os.getpid()}")
        abstract.listen()

        def confine():
            confine_before_start()
            confine_after_start(plan_walls(paths, record, None, victim.pid))

        def write_home():
            (root / "home/.bashrc").write_text("x")

        def read_key():
            return (root / "home/key").read_text()

        def write_notebook():
            (root / "notebooks/a.ipynb").write_text("x")

        def read_other_sandbox():
            return (paths.sandboxes / ("b" * 64) / "record.json").read_text()

        def write_other_sandbox():
            (paths.sandboxes / ("b" * 64) / "record.json").write_text("x")

        def read_passwords():
            return Path("/etc/shadow").read_text()[:1]

        def make_link_out():
            (own / "link").symlink_to(root / "home/key")

        def start_program():
            os.execv("/bin/true", ["true"])

        def fork():
            os.fork()

        def open_memory():
            os.open(f"/proc/{victim.pid}/mem", os.O_RDONLY)

        def read_environment():
            return Path(f"/proc/{victim.pid}/environ").read_text()[:1] or "read"

        def dial_tcp():
            socket.create_connection(server.getsockname()[:2], 2)

        def dial_abstract():
            socket.socket(socket.AF_UNIX).connect(abstract.getsockname())

        def open_netlink():
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

        def chown_own():
            os.chown(own, 1, 1)

        found = in_child(
            *(confine, write_home, read_key, write_notebook, read_other_sandbox, write_other_sandbox, read_passwords),
            *(make_link_out, start_program, fork, open_memory, read_environment, dial_tcp, dial_abstract, open_netlink),
            chown_own,
        )
    assert found.pop("confine") == "done"
    if find_version() < 6:
        del found["dial_abstract"]
    if find_version() < 4:
        del found["dial_tcp"]
    assert {name: ended for name, ended in found.items() if ended not in REFUSED} == {}
    assert run.exists()


def test_what_a_shim_does_goes_on(place, victim, monkeypatch):
    root, paths, record = place
    own, run = paths.sandboxes / record.id, paths.sandbox_run(record.id)
    (root / "modules").mkdir()
    (root / "modules/this_is_loaded_late.py").write_text("")
    monkeypatch.syspath_prepend(root / "modules")
    with (run / "log").open("w") as log:
        pidfd = os.pidfd_open(victim.pid)

        def confine():
            confine_before_start()
            confine_after_start(plan_walls(paths, record, None, victim.pid))

        def save_record():
            record.save(paths.sandboxes)

        def keep_log():
            log.write("a line")
            log.flush()

        def listen():
            with socket.socket(socket.AF_UNIX) as sock, socket.socket() as tcp:
                sock.bind(str(paths.channels("x").with_name("x-1")))
                tcp.bind(("127.0.0.1", 0))
                tcp.listen()

        def read_notebook():
            assert (root / "notebooks/a.ipynb").read_text() == "text"

        def start_thread():
            thread = threading.Thread(target=os.getpid)
            thread.start()
            thread.join()

        def load_module():
            importlib.import_module("this_is_loaded_late")

        def end_machine():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

        def clean_up():
            (run / "log").unlink()
            run.rmdir()

        steps = (
            confine,
            save_record,
            keep_log,
            listen,
            read_notebook,
            start_thread,
            load_module,
            end_machine,
            clean_up,
        )
        found = in_child(*steps)
        assert victim.wait() == -signal.SIGKILL
        os.close(pidfd)
    assert set(found.values()) == {"done"}, found
    assert (own / "record.json").exists()
    assert not run.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user has no capability to give up")
def test_root_keeps_two_powers():
    def keep():
        keep_capabilities(TO_GO_ON)

    def look():
        lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
        wanted = f"{sum(1 << capability for capability in TO_GO_ON):016x}"
        return " ".join(name for name in ("CapPrm", "CapEff", "CapBnd") if lines[name] != wanted)

    assert in_child(keep, look) == {"keep": "done", "look": "done"}


def test_a_home_folder_is_no_place_for_python(monkeypatch, tmp_path):
    """A module path that is a home folder, or above one, would open all that is in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setattr(sys, "path", ["", "/", str(tmp_path), str(tmp_path / "ada"), str(tmp_path / "ada/lib")])
    found = find_python()
    assert tmp_path / "ada/lib" in found
    assert not {Path("/"), tmp_path, tmp_path / "ada"} & set(found)


def test_a_real_shim_has_given_it_up(client):
    spec = SandboxSpec(process=ProcessSpec(argv=("sleep", "1000")))
    ident = client.create(spec).id
    client.start(ident)
    record = client.sandbox(ident)
    lines = Path(f"/proc/{record.shim_pid}/status").read_text().splitlines()
    facts = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert (facts["NoNewPrivs"], facts["Seccomp"], facts["Seccomp_filters"]) == ("1", "2", "2")
    assert int(facts["CapEff"], 16) in (0, sum(1 << capability for capability in TO_GO_ON))
    (core,) = [
        line.split() for line in Path(f"/proc/{record.shim_pid}/limits").read_text().splitlines() if "core" in line
    ]
    assert core[4:6] == ["0", "0"]
