"""The stock ``docker`` program and docker-py drive hyperd; its sandboxes are fakes here."""

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading

import docker
import pytest

from hyper_kernel.paths import find_paths
from tests.fakes.fixtures import start_daemon

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker program is not installed")


@pytest.fixture(autouse=True)
def daemon(fake_home, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{find_paths().socket}")
    monkeypatch.setenv("DOCKER_CONFIG", str(fake_home / "docker"))
    child = start_daemon()
    yield
    child.terminate()
    child.wait(10)


@pytest.fixture
def api():
    made = docker.from_env(timeout=20)
    yield made
    made.close()


def cli(*words, stdin=None, code=0):
    done = subprocess.run(["docker", *words], capture_output=True, text=True, input=stdin, timeout=30, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_version_and_info():
    assert "Hyper Kernel" in cli("version").stdout
    info = json.loads(cli("info", "-f", "{{json .}}").stdout)
    assert info["Labels"] == ["hyper.tier=unknown"]
    assert info["Runtimes"].keys() == {"hyper"}


def test_run():
    assert cli("run", "--rm", "hyper/python", "echo", "hi").stdout == "hi\n"
    assert cli("run", "hyper/python").stdout == "hello from cmd\n"
    done = cli("run", "--rm", "hyper/python", "sh", "-c", "echo o; echo e >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("o\n", "e\n")
    assert cli("run", "-i", "--rm", "hyper/python", "cat", stdin="data").stdout == "data"
    assert cli("run", "--rm", "-e", "A=b", "-w", "/", "hyper/python", "printenv", "A").stdout == "b\n"
    assert "executable file not found" in cli("run", "--rm", "hyper/python", "no-such", code=127).stderr
    assert cli("ps", "-aq").stdout.count("\n") == 1


def test_large_output_and_input_are_whole():
    size = 3 << 20
    assert len(cli("run", "--rm", "hyper/python", "sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x").stdout) == size
    assert cli("run", "-i", "--rm", "hyper/python", "wc", "-c", stdin="y" * size).stdout.strip() == str(size)


def test_input_that_nobody_reads_is_no_error():
    assert cli("run", "-i", "--rm", "hyper/python", "echo", "done", stdin="y" * (1 << 20)).stderr == ""


def test_life_of_a_container():
    cli(
        "run",
        "-d",
        "--name",
        "ada",
        "--label",
        "team=red",
        "hyper/python",
        "sh",
        "-c",
        "echo one; echo two >&2; sleep 60",
    )
    assert "Up" in cli("ps", "--filter", "name=ada", "--filter", "label=team=red").stdout
    done = cli("logs", "ada")
    assert (done.stdout, done.stderr) == ("one\n", "two\n")
    assert cli("exec", "ada", "sh", "-c", "echo in; exit 3", code=3).stdout == "in\n"
    assert cli("exec", "-i", "ada", "cat", stdin="x").stdout == "x"
    cli("exec", "ada", "no-such", code=127)
    cli("exec", "-d", "ada", "true")
    assert "MiB" in cli("stats", "--no-stream", "ada").stdout
    cli("rename", "ada", "eve")
    assert "already in use" in cli("create", "--name", "eve", "hyper/python", code=1).stderr
    cli("restart", "-t", "1", "eve")
    cli("stop", "-t", "1", "eve")
    cli("stop", "eve")
    assert cli("wait", "eve").stdout == "143\n"
    assert cli("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.Name}}", "eve").stdout == "exited 143 /eve\n"
    cli("start", "eve")
    assert "container is running" in cli("rm", "eve", code=1).stderr
    cli("kill", "eve")
    cli("rm", "eve")
    assert "No such container" in cli("inspect", "--type", "container", "eve", code=1).stderr


def test_start_attached():
    cli("create", "--name", "ada", "hyper/python", "sh", "-c", "echo out; exit 4")
    assert cli("start", "-a", "ada", code=4).stdout == "out\n"
    assert cli("start", "-a", "ada", code=4).stdout == "out\n"
    assert "Total reclaimed space" in cli("container", "prune", "-f").stdout
    assert cli("ps", "-aq").stdout == ""


def test_copy(tmp_path):
    cli("run", "-d", "--name", "ada", "hyper/python", "sleep", "60")
    (tmp_path / "f").write_text("content")
    cli("cp", str(tmp_path / "f"), "ada:/g")
    cli("cp", "ada:/g", str(tmp_path / "h"))
    assert (tmp_path / "h").read_text() == "content"
    assert "Could not find the file" in cli("cp", "ada:/none", str(tmp_path), code=1).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-v", "/srv:/host"], "/srv:/host:rw is not allowed: no folder is written live (files.modes, by default)"),
        (["--mount", "type=bind,src=/srv,dst=/host,ro"], "/srv:/host:ro is not allowed: no folder is read live"),
        (["-v", "data:/host"], "volume 'data': there are no volumes"),
        (["--privileged"], "HostConfig.Privileged is not supported"),
        (["-p", "80:80"], "HostConfig.PortBindings is not supported"),
        (["--network", "host"], "network mode 'host' is not supported"),
        (["--device", "/dev/null"], "HostConfig.Devices is not supported"),
        (["--restart", "always"], "restart policy 'always' is not supported"),
        (["--memory", "6m"], "outside 192"),
        (["--annotation", "hyper.speed=9"], "annotation hyper.speed is not known"),
        (["--storage-opt", "dm.basesize=1g"], "storage option dm.basesize is not supported"),
    ],
)
def test_what_is_not_offered_is_refused_in_words(words, says):
    assert says in cli("run", *words, "hyper/python", code=125).stderr


def test_limits_in_dockers_words():
    words = ["--cpus", "0.5", "--pids-limit", "90", "--storage-opt", "size=100m", "--annotation", "hyper.wall_s=60"]
    ident = cli("create", "-m", "256m", *words, "hyper/python").stdout.strip()
    shown = json.loads(cli("inspect", ident).stdout)[0]
    host, limits = shown["HostConfig"], shown["Hyper"]["Limits"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (256 << 20, 500_000_000, 90)
    assert (limits["scratch_mib"], limits["wall_s"], limits["cpu_percent"], limits["cpus"]) == (100, 60, 50, 1)
    quota = cli("create", "--cpu-quota", "150000", "hyper/python").stdout.strip()
    assert json.loads(cli("inspect", quota).stdout)[0]["Hyper"]["Limits"]["cpu_percent"] == 150
    refused = cli("create", "--storage-opt", "size=1g", "hyper/python", code=1)
    assert "does not fit into the memory of 512 MiB" in refused.stderr


def test_images():
    assert "hyper/python" in cli("images").stdout
    assert cli("image", "inspect", "-f", "{{.Id}}", "hyper/python").stdout == f"sha256:{'ab' * 32}\n"
    assert cli("history", "-q", "hyper/python").stdout
    assert "pulls no images" in cli("pull", "elsewhere", code=1).stderr
    assert "pulls no images" in cli("run", "elsewhere", code=125).stderr
    assert "No such image" in cli("rmi", "elsewhere", code=1).stderr
    assert "Hyper Kernel has no networks" in cli("network", "ls", code=1).stderr


def test_docker_py_runs_and_waits(api):
    assert api.ping()
    assert api.containers.run("hyper/python", ["echo", "x"], remove=True) == b"x\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        api.containers.run("hyper/python", "sh -c 'echo err >&2; exit 4'", remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (4, b"err\n")
    with pytest.raises(docker.errors.ImageNotFound):
        api.images.get("elsewhere")
    with pytest.raises(docker.errors.NotFound):
        api.containers.get("nobody")


def test_docker_py_streams_logs_and_stats(api):
    made = api.containers.run("hyper/python", "sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done'", detach=True)
    assert b"".join(made.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert made.wait() == {"StatusCode": 0, "Hyper": {"Reason": ""}}
    assert made.logs(tail=1) == b"3\n"
    made.remove()
    live = api.containers.run("hyper/python", "sleep 60", detach=True, name="ada")
    assert [each.name for each in api.containers.list(filters={"name": "ada"})] == ["ada"]
    assert live.stats(stream=False)["memory_stats"]["usage"] > 1 << 20
    assert live.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True).output == (b"o\n", b"e\n")
    assert live.exec_run("tty", tty=True).output.startswith(b"/dev/pts/")
    live.remove(force=True)


def test_docker_py_copies(api):
    live = api.containers.run("hyper/python", "sleep 60", detach=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("a")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    assert live.put_archive("/", buffer.getvalue())
    chunks, facts = live.get_archive("/a")
    assert (facts["name"], facts["size"]) == ("a", 3)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.extractfile("a").read() == b"abc"


def test_docker_py_hears_events(api):
    heard = []
    listening = api.events(decode=True, filters={"type": "container"})
    thread = threading.Thread(target=lambda: heard.extend(next(listening)["Action"] for _ in range(4)))
    thread.start()
    api.containers.run("hyper/python", ["true"], remove=True)
    thread.join(10)
    listening.close()
    assert heard == ["create", "start", "die", "destroy"]


def test_old_and_new_clients_are_told():
    for version, words in (("1.20", "too old"), ("1.99", "too new")):
        done = subprocess.run(
            ["docker", "ps"],
            capture_output=True,
            text=True,
            env={**os.environ, "DOCKER_API_VERSION": version},
            check=False,
        )
        assert words in done.stderr


def test_input_that_comes_with_the_request_is_not_lost():
    """A client may send the program's input before it has read the answer."""
    ident = cli("create", "-i", "hyper/python", "cat").stdout.strip()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(find_paths().socket))
        head = (
            f"POST /containers/{ident}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        )
        sock.sendall(f"{head}Upgrade: tcp\r\nContent-Length: 0\r\n\r\nearly".encode())
        sock.shutdown(socket.SHUT_WR)
        cli("start", ident)
        with sock.makefile("rb") as file:
            assert file.read().endswith(b"\x01\0\0\0\0\0\0\x05early")
