"""``hyper setup``: its steps are shown, and what is there already is told apart from what was done."""

import io
import re

import pytest
from rich.console import Console

from hyper_kernel.cli.setup import Report, Step, run_steps
from hyper_kernel.errors import HostError


def work(report: Report) -> str:
    report("fetching", 0, 3 << 20)
    report("fetching", 1 << 20, 3 << 20)
    report("packing")
    return "3 MiB"


def fail(report: Report) -> str:
    report("trying")
    raise HostError("it failed", hint="mend it")


STEPS = [Step(title="one", run=work), Step(title="two", run=lambda report: "here")]


def test_a_log_gets_a_line_for_each_thing_done() -> None:
    output = io.StringIO()
    run_steps(STEPS, Console(file=output, width=40))
    lines = output.getvalue().splitlines()
    assert lines[:2] == ["  one: fetching (3 MiB) ...", "  one: packing ..."]
    assert re.fullmatch(r"  one: 3 MiB \(done in \d+ ms\)", lines[2])
    assert re.fullmatch(r"  two: here \(ready, \d+ ms\)", lines[3])


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    output = io.StringIO()
    run_steps(STEPS, Console(file=output, width=80, force_terminal=True))
    assert "one: 3 MiB (done in" in output.getvalue() and "fetching (3 MiB) ..." not in output.getvalue()


def test_a_failed_step_ends_the_set_up() -> None:
    output = io.StringIO()
    with pytest.raises(HostError, match="it failed"):
        run_steps([Step(title="one", run=fail), *STEPS], Console(file=output))
    assert output.getvalue() == "  one: trying ...\n"
