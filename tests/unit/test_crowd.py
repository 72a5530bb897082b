"""Many sandboxes from one command, over fake ones: output, exit codes, interruption, refusals."""

import json
import re
import signal
import subprocess
import threading

import pytest

from hyper_kernel.cli.crowd import AT_ONCE, MAX_LINE, Output, call_all, plan_names, summary
from tests.fakes.fixtures import wait_until
from tests.unit.test_cli import HYPER, Terminal, daemon, hyper

__all__ = ["daemon"]

IMAGE = "hyper/python"


def lines_of(text, number):
    """What the sandbox ``x-NUMBER`` wrote, by its prefix."""
    return [line.partition(" | ")[2] for line in text.splitlines() if line.startswith(f"x-{number} ")]


def test_every_line_is_whole_and_says_whose_it_is():
    script = "for i in 1 2 3 4 5 6 7 8 9; do printf 'left '; printf $i; echo; echo err >&2; done; printf end"
    done = hyper("run", "-n", "4", "--name", "x", IMAGE, "sh", "-c", script)
    for number in range(1, 5):
        assert lines_of(done.stdout, number) == [f"left {i}" for i in range(1, 10)] + ["end"]
        assert lines_of(done.stderr, number) == ["err"] * 9
    assert len(done.stdout.splitlines()) == 40
    assert hyper("ps", "-a").stdout.count("Exited (0)") == 4


def test_the_exit_code_is_the_highest(tmp_path):
    script = f"mkdir {tmp_path}/a && exit 3; mkdir {tmp_path}/b && exit 5; exit 0"
    hyper("run", "--rm", "--count", "4", IMAGE, "sh", "-c", script, code=5)
    assert hyper("ps", "-aq").stdout == ""


def test_detached_ones_print_their_ids_and_are_ended_together():
    idents = hyper("run", "-d", "-n", "40", "--name", "x", IMAGE, "sleep", "60").stdout.split()
    rows = {row["id"]: row["name"] for row in json.loads(hyper("ps", "--json").stdout)}
    assert [rows[ident] for ident in idents] == plan_names("x", 40)
    assert hyper("kill", *idents).stdout.split() == idents
    done = hyper("rm", idents[0], "nobody", *idents[1:], "nothing", code=1)
    assert done.stdout.split() == idents
    assert done.stderr.splitlines()[:2] == [
        "hyper: No such container: nobody",
        "hyper: No such container: nothing",
    ]
    assert hyper("ps", "-aq").stdout == ""


def test_input_and_terminals_are_not_shared():
    assert "cannot be shared by many" in hyper("run", "-n", "2", "-i", IMAGE, code=125).stderr
    assert "cannot be shared by many" in hyper("run", "-n", "2", "-t", IMAGE, code=125).stderr
    hyper("run", "-n", "0", IMAGE, code=2)


def test_a_failure_of_all_is_said_once():
    done = hyper("run", "-n", "50", "nowhere", code=125)
    assert done.stderr.splitlines() == ["hyper: there is no image nowhere", "  → images here: hyper/python:latest"]
    done = hyper("run", "-n", "5", "--name", "x", IMAGE, "no-such", code=127)
    assert done.stderr.count("executable file not found") == 1


def test_a_failure_of_one_does_not_stop_the_others(tmp_path):
    label = f"fake.boot=fail-once:{tmp_path}/failed"
    done = hyper("run", "-n", "3", "--rm", "-l", label, IMAGE, "echo", "ran", code=125)
    assert done.stderr.count("Kernel panic") == 1
    assert done.stdout.count("| ran\n") == 2
    assert hyper("run", "-n", "3", "--rm", "-l", "fake.boot=fail", IMAGE, code=125).stderr.count("Kernel panic") == 1


@pytest.mark.parametrize("words", [[], ["-d"], ["--rm"]])
def test_a_refusal_is_named_and_leaves_nothing(fake_home, words):
    (fake_home / "memory").write_text("1000")
    done = hyper("run", *words, "-n", "50", IMAGE, "true", code=125)
    assert done.stderr.count("no memory for another sandbox: 1000 MiB of this host's 24576 MiB") == 1
    assert "hyper stop" in done.stderr
    wait_until(lambda: hyper("ps", "-aq").stdout == "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_and_leaves_nothing(number):
    argv = [*HYPER, "run", "-n", "40", IMAGE, "sh", "-c", "echo ready; sleep 60"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline().endswith(b" | ready\n")
    child.send_signal(number)
    child.send_signal(number)
    assert child.communicate(timeout=60)[1] == b""
    assert child.returncode == 128 + number
    assert hyper("ps", "-aq").stdout == ""


def test_an_interrupt_takes_those_along_that_wait_for_their_turn():
    argv = [*HYPER, "run", "-d", "-n", "40", "-l", "fake.boot=hang", IMAGE]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    wait_until(lambda: len(hyper("ps", "-aq").stdout.split()) == AT_ONCE, timeout_s=30)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0] == b""
    assert child.returncode == 130
    assert hyper("ps", "-aq").stdout == ""


def test_nothing_is_left_when_nobody_reads():
    child = subprocess.Popen([*HYPER, "run", "-n", "4", IMAGE, "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    child.stderr.read()
    assert child.wait(60) != 0
    assert hyper("ps", "-aq").stdout == ""


def test_a_terminal_has_colours_and_a_summary_and_no_control_characters(tmp_path):
    script = rf"printf 'a\033[2Jb\r\n'; mkdir {tmp_path}/one; exit $?"
    terminal = Terminal("run", "--rm", "-n", "2", "--name", "x", IMAGE, "sh", "-c", script)
    text = terminal.read_until(b" s\r\n").decode()
    assert terminal.wait() == 1
    assert "\x1b[36mx-1 | \x1b[0ma?[2Jb\r\n" in text
    assert "\x1b[33mx-2 | \x1b[0ma?[2Jb\r\n" in text
    assert re.search(r"\n2 sandboxes: 1 exited 0, 1 did not; \d+\.\d s\r\n$", text)


def test_a_summary_tells_of_those_that_were_not_started():
    assert summary([0, 0, 7, None], 2.04) == "4 sandboxes: 2 exited 0, 1 did not, 1 were not started; 2.0 s"


def test_a_line_without_end_does_not_fill_memory(capfdbinary):
    Output(["x"]).copy("x", 0, iter([(1, b"a" * 1000)] * (2 * MAX_LINE // 1000)))
    written = capfdbinary.readouterr().out
    assert len(written.splitlines()) == 2
    assert written.count(b"a") == 2 * MAX_LINE // 1000 * 1000


def test_so_many_calls_are_under_way_at_once_and_each_ends_by_itself():
    together, lock, under_way, most = threading.Barrier(AT_ONCE), threading.Lock(), set(), []

    def act(item):
        with lock:
            under_way.add(item)
            most.append(len(under_way))
        together.wait(30)
        with lock:
            under_way.discard(item)
        if item == 7:
            raise ValueError(item)
        return item

    calls = call_all(act, range(2 * AT_ONCE))
    assert [call.result() for call in calls if call is not calls[7]] == [n for n in range(2 * AT_ONCE) if n != 7]
    with pytest.raises(ValueError, match="7"):
        calls[7].result()
    assert max(most) == AT_ONCE
