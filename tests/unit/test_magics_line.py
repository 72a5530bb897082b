"""The line after %%hyper: parsed, completed, and what was meant by a typo."""

import pytest

from hyper_kernel.errors import RequestError
from hyper_kernel.magics.options import CellPlan, complete_line, parse_line


@pytest.mark.parametrize(
    ("line", "plan"),
    [
        ("", CellPlan()),
        ("debian:12", CellPlan(image="debian:12")),
        ("bash", CellPlan(program=("bash",))),
        ("debian:12 sh", CellPlan(image="debian:12", program=("sh",))),
        ("debian:12 --script 'perl -w'", CellPlan(image="debian:12", program=("perl", "-w"))),
        ("--name lab bash --out t", CellPlan(name="lab", program=("bash",), outputs=("t",))),
        ("--in a,b --out c", CellPlan(inputs=("a", "b"), outputs=("c",))),
        ("--in 'a, b'", CellPlan(inputs=("a", "b"))),
        ("--name lab --fresh --stdin", CellPlan(name="lab", fresh=True, stdin=True)),
        ("--memory=2g --cpus 1.5 --timeout 90s", CellPlan(memory="2g", cpus=1.5, timeout="90s")),
        ("--files copy", CellPlan(files="copy")),
    ],
)
def test_lines_are_read(line, plan):
    assert parse_line(line) == plan


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--memroy 2g", "has no option --memroy", "did you mean --memory?"),
        ("--tiemout=3s", "has no option --tiemout", "did you mean --timeout?"),
        ("--zzzzzz", "has no option --zzzzzz", "it has --cpus"),
        ("--mem 2g", "has no option --mem", "--memory"),
        ("image bahs", "bahs is one word too many after the image image", "did you mean bash?"),
        ("image perl", "perl is one word too many", "--script perl"),
        ("--in a-b", "'a-b' is no name of a variable", "--in a,b"),
        ("--memory", "expected one argument", "%%hyper [IMAGE]"),
        ("--cpus many", "invalid float value", "%%hyper [IMAGE]"),
        ("--name 'x", "cannot be read", "%%hyper [IMAGE]"),
        ("--fresh", "--fresh is for a sandbox with a --name", ""),
        ("bash --out a,b", "a program has one output", ""),
    ],
)
def test_mistakes_are_told_with_what_was_meant(line, message, hint):
    with pytest.raises(RequestError) as info:
        parse_line(line)
    assert message in str(info.value)
    assert hint in info.value.hint


def test_a_plan_says_what_sandbox_it_wants():
    spec = parse_line("img --memory 1g --cpus 1.5 --timeout 90s --files copy").spec("/folder")
    assert (spec.image, spec.memory_mib, spec.cpus, spec.limits.cpu_percent) == ("img", 1024, 2, 150)
    assert spec.limits.cell_s == 90
    assert spec.kernel is not None
    assert (spec.kernel.files, spec.kernel.folder) == ("copy", "/folder")
    alone = parse_line("img sh --timeout 90s").spec("/folder")
    assert (alone.kernel, alone.limits.wall_s, alone.limits.cell_s) == (None, 90, 0)


@pytest.mark.parametrize("line", ["--memory lots", "--timeout soon", "--files everything"])
def test_values_that_are_none_are_refused(line):
    with pytest.raises(RequestError):
        parse_line(line).spec("/folder")


KNOWN = {
    "images": lambda: ["hyper/python:latest", "debian:12"],
    "sandboxes": lambda: ["lab"],
    "variables": lambda: ["a", "abc", "b"],
}


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "", ["hyper/python:latest", "debian:12", "bash", "sh"]),
        ([], "hyper/", ["hyper/python:latest"]),
        ([], "--me", ["--memory"]),
        (["--memory", "1g"], "--", ["--cpus", "--files", "--fresh", "--in"]),
        (["--name"], "", ["lab"]),
        (["--in"], "a", ["a", "abc"]),
        (["--in"], "b,a", ["b,a", "b,abc"]),
        (["--files"], "", ["copy", "none"]),
        (["--script"], "p", []),
    ],
)
def test_words_are_completed(words, incomplete, expected):
    assert complete_line(words, incomplete, KNOWN)[: len(expected) or None] == expected
