"""Names that a guest gives: which come out, which only on demand, and how people see them."""

import pytest

from hyper_kernel.review.names import find_fault, is_retired, shown, skeleton


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", "data/übergröße.csv", "отчёт/данные.csv", "a b", ".hidden", "x" * 255]
)
def test_ordinary_names_have_no_fault(path):
    assert find_fault(path) == ""


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "elsewhere"),
        ("/etc/passwd", "elsewhere"),
        ("..", "elsewhere"),
        ("a/../../b", "elsewhere"),
        ("a//b", "elsewhere"),
        ("./a", "elsewhere"),
        ("a/", "elsewhere"),
        ("x" * 256, "too long"),
        ("é" * 128, "too long"),
        ("/".join(["x" * 200] * 20), "too long"),
        ("a\nb", "cannot be seen"),
        ("a\x1b[31m", "cannot be seen"),
        ("a\0b", "cannot be seen"),
        ("gpj.\u202etxt", "cannot be seen"),
        ("a\u200bb", "cannot be seen"),
        ("a\udc80", "not UTF-8"),
    ],
)
def test_names_that_never_come_out(path, fault):
    assert fault in find_fault(path)
    assert shown(path).isprintable()


@pytest.mark.parametrize(
    ("path", "named", "retired"),
    [
        ("a/b", "", False),
        (".bashrc", "", True),
        (".bashrc", ".bashrc", False),
        (".git/hooks/post-commit", "", True),
        (".git/hooks/post-commit", ".git", False),
        ("a/.git/hooks/x", "a", True),
        ("a/.ipynb_checkpoints/x.ipynb", "a/.ipynb_checkpoints", False),
        ("a/__pycache__/m.pyc", "", True),
        ("node_modules/x/.bin/y", "node_modules", True),
    ],
)
def test_hidden_names_and_what_tools_make_are_applied_only_when_named(path, named, retired):
    assert is_retired(path, named) is retired


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a/b.txt", "a/b.txt"),
        ("données.csv", "données.csv"),
        ("отчёт.csv", "отчёт.csv"),
        ("p\u0430per.py", "p\\u0430per.py"),
        ("\u0441\u043e\u0440\u0435.py", "\\u0441\\u043e\\u0440\\u0435.py"),
        ("\uff41bc", "\\uff41bc"),
        ("\ufb01le", "\\ufb01le"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_passes_for_something_else_is_shown_as_an_escape(path, words):
    assert shown(path) == words


def test_names_that_may_be_mistaken_have_one_skeleton():
    assert skeleton("README.md") == skeleton("readme.MD") == skeleton("re\u0430dme.md")
    assert skeleton("a.py") != skeleton("b.py")
