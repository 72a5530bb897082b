"""The magics in an IPython, with kernels of this machine in place of sandboxes."""

import sys
from types import SimpleNamespace

import pytest
from IPython.core.error import TryNext
from IPython.core.interactiveshell import InteractiveShell

import hyper_kernel
from hyper_kernel.magics.commands import run_commands
from hyper_kernel.magics.extension import complete
from hyper_kernel.magics.failure import CellError, sandbox_failure
from hyper_kernel.magics.magics import HyperMagics
from hyper_kernel.magics.screen import Result, Screen
from tests.fakes.local_kernels import LocalKernels


class Shell(InteractiveShell):
    """An IPython that keeps what it displays and raises."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shown = []
        self.display_pub.publish = lambda **what: self.shown.append(what)
        self.display_pub.clear_output = lambda wait=False: self.shown.append({"clear": wait})

    def cell(self, text):
        """What a cell raised, or None."""
        done = self.run_cell(text)
        return done.error_in_exec or done.error_before_exec


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    kernels = LocalKernels(folder)
    shell = Shell(ipython_dir=str(folder / "ipython"))
    hyper_kernel.load_ipython_extension(shell)
    magics = shell.magics_manager.registry["HyperMagics"]
    magics.client = kernels
    yield shell
    hyper_kernel.unload_ipython_extension(shell)
    assert not kernels.children
    assert "hyper" not in shell.magics_manager.magics["cell"]
    kernels.close()


@pytest.fixture
def magics(shell):
    return shell.magics_manager.registry["HyperMagics"]


def test_a_named_sandbox_keeps_its_state(shell, magics, capsys):
    assert shell.cell("n = 20") is None
    assert shell.cell("%%hyper --name lab --in n --out m\nprint('in there'); m = n + 1; m") is None
    assert shell.user_ns["m"] == 21
    assert isinstance(shell.user_ns["_"], Result)
    assert repr(shell.user_ns["_"]) == "21"
    assert shell.cell("%%hyper --name lab\nprint(m)") is None
    assert capsys.readouterr().out.startswith("in there\n")
    assert magics.names() == ["lab"]


def test_what_a_cell_raises_fails_this_one_without_a_traceback_of_ours(shell, capsys):
    error = shell.cell("%%hyper --name lab\n1 / 0")
    assert type(error).__name__ == "ZeroDivisionError"
    assert isinstance(error, CellError)
    text = capsys.readouterr().out
    assert "division by zero" in text
    assert "hyper_kernel" not in text


def test_displays_are_shown_and_updated_under_names_of_their_own(shell):
    shell.shown.clear()
    code = "from IPython.display import *\nh = display('a', display_id='x')\nh.update('b')\nclear_output(wait=True)"
    assert shell.cell(f"%%hyper --name lab\n{code}") is None
    first, second, cleared = shell.shown
    assert first["transient"] == second["transient"]
    assert first["transient"]["display_id"].endswith("-x") and first["transient"]["display_id"] != "x"
    assert (first["update"], second["update"], cleared) == (False, True, {"clear": True})


def test_a_sandbox_with_other_wishes_must_be_fresh(shell, magics):
    error = shell.cell("%%hyper --name lab --memory 1g\n1")
    assert "was started with another memory" in str(error)
    assert any("--fresh" in line for line in error.lines)
    assert shell.cell("%%hyper --name lab --fresh --memory 1g\nn = 1") is None
    assert shell.cell("%%hyper --name lab --memory 1g\nassert 'm' not in globals()") is None


def test_a_script_runs_beside_the_kernel_and_its_output_becomes_a_text(shell, capsys):
    assert shell.cell("%%hyper --name lab --in n --out text bash\necho n is $n; echo oh >&2") is None
    assert shell.user_ns["text"] == "n is 20\n"
    assert capsys.readouterr().err == "oh\n"
    error = shell.cell("%%hyper --name lab sh\nexit 3")
    assert str(error) == "sh exited with 3"


def test_input_is_asked_for_where_it_is_allowed(shell, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda prompt: f"an answer to {prompt}")
    assert shell.cell("%%hyper --name lab --stdin\nprint(input('q?'))") is None
    assert capsys.readouterr().out == "an answer to q?\n"
    assert "allow that with --stdin" in str(shell.cell("%%hyper --name lab\ninput()"))


def test_a_death_is_one_line_and_the_next_cell_starts_afresh(shell):
    error = shell.cell("%%hyper --name lab --memory 1g\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert error.lines == [
        "\x1b[31mhyper: sandbox lab ended: out of memory: used all of its 512 MiB\x1b[0m",
        "  → the next cell with this name starts afresh",
    ]
    assert shell.cell("%%hyper --name lab\nx = 1") is None


def test_an_unnamed_sandbox_is_gone_afterwards(shell, magics):
    assert shell.cell("%%hyper\n1") is None
    assert magics.client.children.keys() == {magics._named["lab"][0].id}


@pytest.mark.parametrize(
    ("cell", "message", "hint"),
    [
        ("%%hyper --in nn\n1", "there is no variable nn here", "did you mean n?"),
        ("%%hyper --in f\n1", "f is a builtins.function, which cannot be carried", ""),
        ("%%hyper --name lab --out zz\n1", "there is no variable zz in the sandbox", ""),
        ("%%hyper --memroy 1g\n1", "has no option --memroy", "did you mean --memory?"),
        ("%%hyper --in f bash\n1", "a program takes texts and numbers", ""),
        ("%hyper psx", "there is no command psx", "did you mean ps?"),
    ],
)
def test_mistakes_are_one_line(shell, magics, cell, message, hint):
    shell.user_ns["f"] = lambda: 1
    started = magics.client.started
    error = shell.cell(cell)
    assert message in str(error)
    assert hint in "".join(error.lines)
    assert magics.client.started == started  # no sandbox for a mistake that can be seen before


def test_the_command_line_prints_here(capsys):
    run_commands(["version", "--help"])
    assert "Usage: hyper version" in capsys.readouterr().out
    with pytest.raises(CellError, match="ps exited with 2"):
        run_commands(["ps", "--alll"])
    assert "--all" in capsys.readouterr().err
    assert sys.stdout.isatty() is False


def event(text, symbol):
    return SimpleNamespace(text_until_cursor=text, symbol=symbol)


@pytest.mark.parametrize(
    ("text", "symbol", "expected"),
    [
        ("%%hyper --na", "--na", "--name"),
        ("%%hyper --name l", "l", "lab"),
        ("%%hyper --in n,m", "m", "m"),
        ("%hyper inspe", "inspe", "inspect"),
        ("%hyper ps --al", "--al", "--all"),
        ("%hyper pool ", "", "keep"),
    ],
)
def test_the_tab_key_offers_what_may_come(shell, magics, text, symbol, expected):
    assert expected in complete(magics, event(text, symbol))


def test_the_tab_key_completes_the_rest_of_a_word(shell, magics, monkeypatch):
    monkeypatch.setattr(magics, "images", lambda: ["hyper/python:latest"])
    assert complete(magics, event("%%hyper hyper/python:la", "la")) == ["latest"]
    with pytest.raises(TryNext):
        complete(magics, event("%%hyper zzz", "zzz"))


def test_both_have_help(shell, magics):
    for kind in ("line", "cell"):
        function = shell.magics_manager.magics[kind]["hyper"]
        assert function.__doc__ and "%hyper" in function.__doc__


def test_a_guest_names_a_class_and_finds_none():
    for name in ("SystemExit", "KeyboardInterrupt", "x.y", "", "é" * 1000, "__import__('os')"):
        error = sandbox_failure({"ename": name, "evalue": "v", "traceback": ["line"]})
        assert isinstance(error, CellError)
        assert not isinstance(error, SystemExit | KeyboardInterrupt)
        assert error.lines == ["line"]


@pytest.mark.parametrize(
    "kind", ["stream", "display_data", "execute_result", "error", "clear_output", "comm_open", "x"]
)
@pytest.mark.parametrize("content", [{}, {"data": {}}, {"data": None, "metadata": None, "transient": None, "text": 7}])
def test_messages_of_any_shape_are_shown_or_passed_over(shell, kind, content):
    Screen(shell, "s")(kind, content)


def test_magics_work_without_a_frontend(shell):
    assert HyperMagics(shell, client=object()).names() == []
