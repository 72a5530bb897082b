"""hyperd's registry of sandboxes over fake shims: lives, deaths, adoption."""

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time

import pytest

import hyper_kernel.client.calls as client_module
from hyper_kernel.client import Client, ensure_daemon, start, stop_daemon
from hyper_kernel.errors import ConflictError, GuestError, NotFoundError, RequestError
from hyper_kernel.sandbox.record import State
from hyper_kernel.spec import ProcessSpec, SandboxSpec
from tests.fakes.fixtures import kernel, processes_of, shell, start_daemon, wait_until


def run(client, spec, name=""):
    record = client.create(spec, name)
    client.start(record.id)
    return record.id


def test_a_sandbox_lives_from_create_to_remove(client):
    record = client.create(shell("exit 7"), "one")
    assert (record.state, record.exit_code) == (State.CREATED, -1)
    client.start("one")
    assert client.wait("one") == 7
    ended = client.sandbox("one")
    assert ended.state is State.EXITED
    assert ended.exit_code == 7
    assert 0 < ended.created_s <= ended.started_s <= ended.finished_s
    client.remove("one")
    with pytest.raises(NotFoundError, match="No such container: one"):
        client.sandbox("one")
    assert list(client.paths.sandboxes.iterdir()) == []


def test_names_and_starts_of_ids_find_a_sandbox(client):
    record = client.create(shell("true"), "ada")
    assert client.sandbox("/ada").id == client.sandbox(record.id[:12]).id == record.id
    with pytest.raises(ConflictError, match='"/ada" is already in use'):
        client.create(shell("true"), "ada")
    with pytest.raises(RequestError, match="Invalid container name"):
        client.create(shell("true"), "../x")
    assert client.create(shell("true")).name.count("_") == 1


def test_a_name_that_was_changed_outlives_hyperd(client):
    ident = run(client, shell("sleep 60"), "before")
    client.rename("before", "after")
    os.kill(client.status()["pid"], signal.SIGKILL)
    assert client.sandbox("after").id == ident
    client.kill("after")
    assert client.sandbox("after").name == "after"


def test_starting_and_stopping_twice_does_nothing(client):
    ident = run(client, shell("sleep 60"))
    client.start(ident)
    assert client.stop(ident, 1)
    assert not client.stop(ident, 1)
    with pytest.raises(ConflictError, match="is not running"):
        client.kill(ident)


def test_a_sandbox_starts_again(client):
    ident = run(client, shell("echo run; exit 3"))
    assert client.wait(ident) == 3
    client.restart(ident)
    assert client.wait(ident) == 3
    assert list(client.logs(ident)) == [(1, b"run\n")]


def test_a_live_sandbox_is_removed_only_by_force(client):
    ident = run(client, shell("sleep 60"))
    with pytest.raises(ConflictError, match="stop the container before removing"):
        client.remove(ident)
    client.remove(ident, force=True)
    assert client.sandboxes(everything=True) == []


def test_a_sandbox_that_removes_itself_is_gone_when_it_has_exited(client):
    record = client.create(shell("exit 5", auto_remove=True))
    with client.waiting(record.id, "removed") as ends:
        client.start(record.id)
        assert next(ends).code == 5
    assert client.sandboxes(everything=True) == []


def test_a_guest_that_panics_fails_the_start_with_its_console(client):
    record = client.create(shell("true", labels={"fake.boot": "fail"}))
    with pytest.raises(GuestError, match=r"the guest panicked\nLinux version 0.fake\nKernel panic") as caught:
        client.start(record.id)
    assert "console.log" in caught.value.hint
    assert client.sandbox(record.id).reason == "the guest panicked"


def test_a_program_that_is_not_there_fails_the_start(client):
    record = client.create(SandboxSpec(image="hyper/python", process=ProcessSpec(argv=("no-such",))))
    with pytest.raises(RequestError, match=r"executable file not found in \$PATH"):
        client.start(record.id)
    assert client.sandbox(record.id).exit_code == 127


def test_a_killed_shim_is_noticed_and_named(client):
    ident = run(client, shell("sleep 60"))
    with client.waiting(ident, "next-exit") as ends:
        os.kill(client.sandbox(ident).shim_pid, signal.SIGKILL)
        began = time.monotonic()
        end = next(ends)
    assert (end.code, end.reason) == (137, "host lost: the shim was killed")
    assert time.monotonic() - began < 5
    assert not client.paths.sandbox_run(ident).exists()
    kill_program(client, "sleep 60")
    client.start(ident)
    assert client.sandbox(ident).state is State.RUNNING


def kill_program(client, words):
    """End a fake sandbox's program, which has no machine to die with."""
    for pid in processes_of(client.paths.state.parent):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if words.replace(" ", "\0").encode() in file.read():
                os.kill(pid, signal.SIGKILL)


def test_hyperd_killed_is_started_again_and_adopts_what_lives(client):
    lives = run(client, shell("echo early; read x; echo got $x; exit 4", open_stdin=True), "lives")
    ends = run(client, shell("read x; exit 6", open_stdin=True), "ends")
    leaving = client.attach(ends, stdin=True)
    first = client.status()["pid"]
    os.kill(first, signal.SIGKILL)
    leaving.close()
    wait_until(lambda: start.find_version(client.paths) is None)
    shim = direct(client, ends)
    assert client.sandbox(lives).state is State.RUNNING
    assert client.status()["pid"] != first
    shim.close()
    stream = client.attach(lives, stdin=True, logs=True)
    stream.send(b"mail\n")
    assert b"".join(data for _, data in stream) == b"early\ngot mail\n"
    assert client.wait(lives) == 4


def direct(client, ident):
    """A connection to a shim itself."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(client.paths.sandbox_run(ident) / "shim.sock"))
    return sock


def test_what_died_while_hyperd_was_away_is_swept(client):
    ident = run(client, shell("sleep 60"))
    shim = client.sandbox(ident).shim_pid
    os.kill(client.status()["pid"], signal.SIGKILL)
    os.kill(shim, signal.SIGKILL)
    kill_program(client, "sleep 60")
    stray = client.paths.run / "s" / "deadbeef"
    stray.mkdir()
    ended = client.sandbox(ident)
    assert (ended.state, ended.exit_code, ended.reason) == (State.EXITED, 137, "host lost: the shim was killed")
    assert not stray.exists()
    assert not client.paths.sandbox_run(ident).exists()


def test_a_record_that_cannot_be_read_is_left_alone(client):
    client.version()
    stop_daemon(client.paths)
    folder = client.paths.sandboxes / "broken"
    folder.mkdir()
    (folder / "record.json").write_text("{")
    assert client.sandboxes(everything=True) == []
    assert folder.exists()


def test_hyperd_of_another_version_is_replaced(client, monkeypatch):
    ident = run(client, shell("sleep 60"))
    first = client.status()["pid"]
    monkeypatch.setattr(start, "__version__", "9.9")
    monkeypatch.setattr(start, "find_version", lambda paths: "0.1.0" if pid_of(paths) == first else "9.9")
    monkeypatch.setattr(client_module, "__version__", "9.9")
    monkeypatch.setattr(client_module, "find_version", start.find_version)
    assert Client().sandbox(ident).state is State.RUNNING
    assert pid_of(client.paths) != first


def pid_of(paths):
    return int((paths.run / "hyperd.lock").read_text())


def test_hyperd_leaves_when_idle_but_not_while_a_sandbox_lives(fake_home):
    daemon = start_daemon("--idle-exit-s", "0.3")
    client = Client(start=False)
    ident = run(client, shell("read x", open_stdin=True))
    stream = client.attach(ident, stdin=True)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.wait(0.8)
    stream.close_stdin()
    assert daemon.wait(5) == 0
    stream.close()
    assert not client.paths.socket.exists()


def test_of_many_clients_one_starts_hyperd(fake_home):
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(Client().status()["pid"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 8
    assert len(set(pids)) == 1


def test_hyperd_keeps_no_token_and_nobody_else_may_connect(client, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "sesame")
    pid = client.status()["pid"]
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"sesame" not in file.read()
    assert client.paths.socket.stat().st_mode & 0o777 == 0o600
    assert client.paths.run.stat().st_mode & 0o777 == 0o700


def test_two_hyperds_do_not_serve_one_home(client):
    client.version()
    second = subprocess.run(
        [sys.executable, "-m", "tests.fakes.hyperd"], capture_output=True, text=True, timeout=20, check=False
    )
    assert "another hyperd serves" in second.stderr
    ensure_daemon(client.paths)


def test_kernel_life(client):
    started = client.start_kernel(kernel())
    ident = started["id"]
    first = client.sandbox(ident).shim_pid
    assert client.kernels()[0]["state"] == "running"
    assert client.sandbox(ident).spec.kernel.key == ""
    assert client.wait_kernel(ident, 0.1)["state"] == "running"
    client.signal_kernel(ident, 9)
    dead = client.wait_kernel(ident, 5)
    assert (dead["state"], dead["exit_code"], dead["sandbox_state"]) == ("exited", 137, "running")
    client.signal_kernel(ident, 2)
    assert client.restart_kernel(ident, kernel().kernel) == started["connection"]
    assert client.sandbox(ident).shim_pid != first
    assert client.kernel(ident)["state"] == "running"
    client.remove_kernel(ident)
    with pytest.raises(NotFoundError):
        client.kernel(ident)


def test_a_kernel_that_does_not_come_up_leaves_nothing(client):
    with pytest.raises(GuestError, match="Kernel panic"):
        client.start_kernel(kernel(labels={"fake.boot": "fail"}))
    assert client.sandboxes(everything=True) == []


def test_a_kernel_whose_client_goes_away_while_it_boots_leaves_nothing(client):
    client.version()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(client.paths.socket))
    body = b'{"image": "hyper/python", "kernel": {"name": ""}, "labels": {"fake.boot": "hang"}}'
    sock.sendall(b"POST /hyper/v1/kernels HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    wait_until(lambda: any(record.state is State.BOOTING for record in client.sandboxes()))
    sock.close()
    wait_until(lambda: client.sandboxes(everything=True) == [])


def test_files_go_in_and_out(client):
    ident = run(client, shell("sleep 60"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("a.bin")
        entry.size = 3 << 20
        tar.addfile(entry, io.BytesIO(bytes(3 << 20)))
    client.put_archive(ident, "/", iter([archive.getvalue()]))
    assert client.stat_path(ident, "/a.bin")["size"] == 3 << 20
    assert client.stat_path(ident, "/b.bin") is None
    with client.get_archive(ident, "/a.bin") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        assert next(iter(tar)).size == 3 << 20
    with pytest.raises(RequestError, match="no such file"):
        client.put_archive(ident, "/nowhere", iter([archive.getvalue()]))
    with pytest.raises(NotFoundError), client.get_archive(ident, "/nowhere"):
        pass


def test_events_tell_a_life(client):
    ident = run(client, shell("exit 2"), "told")
    client.wait(ident)
    client.remove(ident)
    events = list(client.events(since="1", until=str(time.time())))
    assert [event["Action"] for event in events] == ["create", "start", "die", "destroy"]
    assert events[2]["Actor"]["Attributes"] == {"image": "hyper/python", "name": "told", "exitCode": "2"}


def test_logs_follow_without_loss_and_without_doubles(client):
    ident = run(client, shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.05; done; echo e >&2"))
    text = b"".join(data for _, data in client.logs(ident, follow=True))
    assert text == b"1\n2\n3\n4\n5\n6\ne\n"
    assert list(client.logs(ident, tail="2")) == [(1, b"6\n"), (2, b"e\n")]
