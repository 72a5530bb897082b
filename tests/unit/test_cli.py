"""The ``hyper`` program over fake sandboxes: words, exit codes, terminals, files."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from hyper_kernel.cli import copy as copy_module
from hyper_kernel.cli.copy import plan_target, split_reference
from hyper_kernel.cli.main import _COMMANDS
from hyper_kernel.cli.run import plan_env
from hyper_kernel.errors import NotFoundError, RequestError
from hyper_kernel.host.tar import extract
from tests.fakes.fixtures import start_daemon

HYPER = [sys.executable, "-c", "from hyper_kernel.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def daemon(fake_home):
    child = start_daemon()
    yield
    child.terminate()
    child.wait(10)


def hyper(*words, stdin=None, code=0):
    done = subprocess.run([*HYPER, *words], capture_output=True, text=True, input=stdin, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_run_prints_both_outputs_and_exits_as_the_program():
    done = hyper("run", "hyper/python", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    (row,) = json.loads(hyper("ps", "-a", "--json").stdout)
    assert row["exit_code"] == 7


def test_options_after_the_image_belong_to_the_program():
    assert hyper("run", "--rm", "hyper/python", "echo", "--rm", "-x").stdout == "--rm -x\n"
    assert hyper("ps", "-aq").stdout == ""


def test_the_images_command_runs_where_none_is_given():
    assert hyper("run", "--rm", "hyper/python").stdout == "hello from cmd\n"


def test_input_environment_and_labels_reach_the_program():
    assert hyper("run", "-i", "--rm", "hyper/python", "cat", stdin="data").stdout == "data"
    script = ["hyper/python", "sh", "-c", "echo $A $B"]
    assert hyper("run", "--rm", "-e", "A=1", "-e", "B=2", *script).stdout == "1 2\n"
    hyper("run", "-d", "--name", "ada", "-l", "team=red", "-m", "256m", "--cpus", "2", "hyper/python", "sleep", "60")
    (row,) = json.loads(hyper("ps", "--json").stdout)
    assert (row["spec"]["labels"], row["spec"]["memory_mib"], row["spec"]["cpus"]) == ({"team": "red"}, 256, 2)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "--rm", "hyper/python", "no-such"], 127, "executable file not found"),
        (["run", "--rm", "hyper/python", "/etc/passwd"], 126, "permission denied"),
        (["run", "nowhere"], 125, "there is no image nowhere"),
        (["run", "-m", "1m", "hyper/python"], 125, "192"),
        (["run", "--rm", "-l", "fake.boot=fail", "hyper/python"], 125, "Kernel panic"),
        (["run", "--rm", "hyper/python", "sh", "-c", "kill -9 $$"], 137, ""),
        (["exec", "nobody", "ls"], 125, "No such container: nobody"),
        (["stop", "nobody"], 1, "No such container: nobody"),
        (["nonsense"], 2, "No such command"),
        (["cp", "a", "b"], 1, "one of the two must be in a sandbox"),
        (["run", "-it", "hyper/python"], 125, "not a terminal"),
    ],
)
def test_failures_have_the_documented_exit_codes(words, code, says):
    assert says in hyper(*words, code=code).stderr


def test_errors_say_what_and_what_to_do():
    assert hyper("rm", "nobody", code=1).stderr.splitlines() == [
        "hyper: No such container: nobody",
        "  → list sandboxes with: hyper ps -a",
    ]


def test_a_running_sandbox_is_looked_at_and_ended():
    ident = hyper("run", "-d", "--name", "ada", "hyper/python", "sh", "-c", "echo one; sleep 60").stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", ident)
    table = hyper("ps").stdout.splitlines()
    assert table[0].split() == ["ID", "NAME", "IMAGE", "RUNS", "STATUS", "MEMORY", "ISOLATION"]
    assert table[1].startswith(f"{ident[:12]}   ada    hyper/python   sh -c echo one; sleep 60   Up ")
    assert hyper("logs", "ada").stdout == "one\n"
    assert hyper("exec", "ada", "sh", "-c", "echo in; exit 3", code=3).stdout == "in\n"
    assert "cannot run no-such" in hyper("exec", "ada", "no-such", code=127).stderr
    assert hyper("exec", "-i", "ada", "cat", stdin="x").stdout == "x"
    assert json.loads(hyper("inspect", "ada").stdout)[0]["State"]["Running"]
    assert json.loads(hyper("inspect", "hyper/python").stdout)[0]["Architecture"] == ""
    assert hyper("stop", "ada").stdout == "ada\n"
    assert hyper("wait", "ada").stdout == "143\n"
    assert hyper("start", "ada").stdout == "ada\n"
    assert hyper("kill", "-s", "USR1", "ada").stdout == "ada\n"
    assert hyper("rm", "-f", "ada", "nobody", code=1).stdout == "ada\n"


def test_files_are_copied_both_ways(tmp_path):
    hyper("run", "-d", "--name", "ada", "hyper/python", "sleep", "60")
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub/f").write_text("content")
    hyper("cp", str(source), "ada:/")
    hyper("cp", str(source / "sub/f"), "ada:/renamed")
    hyper("cp", "ada:/src", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/f").read_text() == "content"
    hyper("cp", "ada:/renamed", str(tmp_path))
    assert (tmp_path / "renamed").read_text() == "content"
    archive = subprocess.run([*HYPER, "cp", "ada:/src", "-"], capture_output=True, timeout=20, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["src", "src/sub", "src/sub/f"]
    assert "Could not find the file /none" in hyper("cp", "ada:/none", str(tmp_path), code=1).stderr


def test_links_of_a_sandbox_stay_there(tmp_path):
    hyper("run", "-d", "--name", "ada", "hyper/python", "sleep", "60")
    hyper("exec", "ada", "sh", "-c", "mkdir d; ln -s /etc/passwd d/link; echo 1 > d/file")
    done = hyper("cp", "ada:/d", str(tmp_path))
    assert os.listdir(tmp_path / "d") == ["file"]
    assert "left out 1" in done.stderr
    assert "is a link to /etc/passwd" in hyper("cp", "ada:/d/link", str(tmp_path), code=1).stderr


def test_references():
    assert split_reference("ada:/x") == ("ada", "/x")
    assert split_reference("ada:") == ("ada", "/")
    for local in ("x", "./a:b", "/a:b", "-", ":x"):
        assert split_reference(local) is None


def test_where_a_copy_goes(tmp_path):
    assert plan_target(tmp_path, "f") == (tmp_path, "f")
    assert plan_target(tmp_path, "..") == (tmp_path, "copy")
    assert plan_target(tmp_path / "new", "f") == (tmp_path, "new")
    with pytest.raises(NotFoundError):
        plan_target(tmp_path / "no/new", "f")
    assert copy_module.extract is extract


def test_environment_entries(monkeypatch):
    monkeypatch.setenv("MINE", "m")
    assert plan_env(["A=1", "MINE", "NOT_SET"]) == ("A=1", "MINE=m")
    with pytest.raises(RequestError):
        plan_env(["=1"])


def test_every_list_has_json():
    for words in (["ps"], ["images"], ["version"], ["daemon", "status"], ["kernelspec", "list"]):
        json.loads(hyper(*words, "--json").stdout)
    facts = json.loads(subprocess.run([*HYPER, "doctor", "--json"], capture_output=True, check=False).stdout)
    assert {"packages", "KVM", "isolation", "guest", "images"} <= {fact["name"] for fact in facts}


def test_the_daemon_is_seen_and_stopped(fake_home):
    assert hyper("daemon", "socket").stdout == f"unix://{fake_home}/run/hyperd.sock\n"
    assert "hyperd 0.1.0" in hyper("daemon", "status").stdout
    assert hyper("daemon", "stop").stdout == "stopped\n"
    assert "not running" in hyper("daemon", "status", code=1).stdout
    assert "hyperd      not running" in hyper("version").stdout


def test_help_names_every_command_and_the_exit_codes():
    text = hyper("--help").stdout
    for name in _COMMANDS:
        assert f"\n  {name} " in text
        hyper(name, "--help")
    assert "125 where Hyper Kernel itself failed" in " ".join(text.split())


def test_the_shell_completes_names():
    hyper("run", "-d", "--name", "adelaide", "hyper/python", "sleep", "60")
    env = {**os.environ, "_HYPER_COMPLETE": "complete_bash", "COMP_WORDS": "hyper stop ad", "COMP_CWORD": "2"}
    done = subprocess.run(HYPER, capture_output=True, text=True, env=env, timeout=20, check=False)
    assert "adelaide" in done.stdout


def test_signals_go_to_the_program():
    script = "trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    child = subprocess.Popen([*HYPER, "run", "--rm", "hyper/python", "sh", "-c", script], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=10)[0] == b"term\n"
    assert child.returncode == 4


class Terminal:
    """``hyper`` on a pseudo-terminal."""

    def __init__(self, *words):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(HYPER[0], [*HYPER, *words])

    def read_until(self, text):
        output, deadline = b"", time.monotonic() + 10
        while text not in output and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    output += os.read(self.fd, 4096)
                except OSError:
                    break
        assert text in output, output
        return output

    def wait(self):
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_a_terminal_is_passed_through():
    terminal = Terminal("run", "-it", "--rm", "hyper/python", "sh", "-c", "tty; read x; echo got $x; exit 5")
    terminal.read_until(b"/dev/pts/")
    os.write(terminal.fd, b"abc\n")
    terminal.read_until(b"got abc\r\n")
    assert terminal.wait() == 5


def test_ctrl_c_reaches_the_program_and_ctrl_p_ctrl_q_leaves_it():
    terminal = Terminal("run", "-it", "--rm", "hyper/python", "sh", "-c", "echo ready; sleep 60")
    terminal.read_until(b"ready")
    os.write(terminal.fd, b"\x03")
    assert terminal.wait() == 130
    terminal = Terminal("run", "-it", "--name", "ada", "hyper/python", "sh", "-c", "echo ready; sleep 60")
    terminal.read_until(b"ready")
    os.write(terminal.fd, b"\x10\x11")
    assert terminal.wait() == 0
    assert hyper("ps").stdout.count(" ada ") == 1
