"""Programs that the agent runs: streams, terminals, exits, signals."""

import os
import signal
import time
from pathlib import Path

import pytest

from hyper_kernel.wire import Type
from tests.unit.guest_peer import start_agent

DONE = {"code": 0, "signal": None}


@pytest.fixture
def agent(tmp_path):
    with start_agent(tmp_path) as peer:
        peer.ready()
        yield peer


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)  # another process's doing: nothing here to wait on


def test_output_and_code(agent):
    stream = agent.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    end, out, err = stream.receive_all()
    assert (end["code"], end["signal"], out, err) == (3, None, b"out\n", b"err\n")


def test_input_comes_back_whole(agent):
    data = os.urandom(700_000)
    stream = agent.exec("cat")
    stream.sock.settimeout(30)
    received = b""
    for start in range(0, len(data), 50_000):  # in turns: neither side may have to hold all of it
        stream.send_stdin(data[start : start + 50_000])
        while len(received) < start + 50_000:
            received += stream.receive_raw()[1]
    stream.send(Type.STDIN_EOF)
    assert stream.receive_all()[0] == DONE
    assert received == data


def test_signal_reaches_the_whole_group_past_unread_input(agent):
    stream = agent.exec("sh", "-c", "sleep 60 & wait")
    stream.send_stdin(bytes(600_000))
    stream.send(Type.SIGNAL, {"signal": signal.SIGTERM})
    assert stream.receive_end() == (None, signal.SIGTERM)


def test_environment_is_the_images_under_the_requests(agent):
    stream = agent.exec("sh", "-c", "echo $COLOUR $SHAPE $HOME", env={"SHAPE": "round", "HOME": "/h"})
    assert stream.receive_all()[1] == b"blue round /h\n"


def test_folder_is_made(agent, tmp_path):
    stream = agent.exec("pwd", cwd=str(tmp_path / "a/b"))
    assert stream.receive_all()[1].decode() == f"{tmp_path}/a/b\n"


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["/nope"], 127, "/nope: not found in the image"),
        (["nope"], 127, "nope: not found in the image"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        ([], 126, "no program"),
    ],
)
def test_program_that_cannot_run_is_refused(agent, argv, code, reason):
    kind, refusal = agent.dial().open("exec", argv=argv)
    assert (kind, refusal["code"]) == (Type.REFUSED, code)
    assert reason in refusal["error"]


def test_unknown_user_is_refused(agent):
    kind, refusal = agent.dial().open("exec", argv=["true"], user="nobody-here")
    assert (kind, refusal["code"], refusal["error"]) == (Type.REFUSED, 126, "true: the image has no user nobody-here")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_runs_as_another_user(agent):
    assert agent.exec("id", "-u", user="65534:12").receive_all()[1] == b"65534\n"
    assert agent.exec("id", "-g", user="65534:12").receive_all()[1] == b"12\n"


def test_exit_does_not_wait_for_what_was_left_behind(agent):
    stream = agent.exec("sh", "-c", "sleep 60 & echo $!")
    end, out, _ = stream.receive_all()
    assert end == DONE
    os.kill(int(out), signal.SIGKILL)


def test_every_ended_process_is_reaped(agent):
    for _ in range(5):
        agent.exec("sh", "-c", "true & true").receive_all()
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    wait_until(lambda: not children.read_text(), "zombies are left")


def test_peer_that_goes_away_hangs_up(agent, tmp_path):
    mark = tmp_path / "mark"
    stream = agent.exec("sh", "-c", f"trap 'echo hup > {mark}; exit' HUP; echo up; while :; do sleep 0.05; done")
    assert stream.receive_raw() == (Type.STDOUT, b"up\n")
    stream.close()
    wait_until(mark.exists, "no SIGHUP came")


def test_program_that_ignores_hangups_runs_on(agent, tmp_path):
    mark = tmp_path / "mark"
    stream = agent.exec("sh", "-c", f"trap '' HUP; echo up; read gone; yes | head -c 300000; echo done > {mark}")
    assert stream.receive_raw() == (Type.STDOUT, b"up\n")
    stream.close()
    wait_until(mark.exists, "it was held up by output that nobody reads")


def test_terminal(agent):
    stream = agent.exec(
        "sh", "-c", "tty; stty size; read line; stty size; echo $line $TERM", tty=True, rows=30, cols=90
    )
    out = b""
    while b"30 90" not in out:
        out += stream.receive_raw()[1]
    assert out.startswith(b"/dev/pts/")
    stream.send(Type.RESIZE, {"rows": 31, "cols": 91})
    stream.send(Type.STDIN, b"hello\n")
    end, out, _ = stream.receive_all()
    assert end == DONE
    assert out.split() == [b"hello", b"31", b"91", b"hello", b"xterm"]


def test_terminal_passes_interrupts_and_end_of_input(agent):
    stream = agent.exec("sleep", "60", tty=True)
    stream.send(Type.STDIN, b"\x03")
    assert stream.receive_end() == (None, signal.SIGINT)
    stream = agent.exec("cat", tty=True)
    stream.send(Type.STDIN_EOF)
    assert stream.receive_all()[0] == DONE


def test_descriptors_of_the_agent_do_not_leak(agent):
    assert agent.exec("sh", "-c", "ls /proc/self/fd | wc -l").receive_all()[1].strip() == b"4"  # and ls's own


def test_many_at_once(agent):
    streams = [agent.exec("sh", "-c", f"sleep 0.1; exit {number}") for number in range(20)]
    assert [stream.receive_all()[0]["code"] for stream in streams] == list(range(20))
