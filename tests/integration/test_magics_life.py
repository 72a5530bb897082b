"""%%hyper with real sandboxes, from an IPython in this process."""

import os
import platform
import signal
import threading

import numpy
import pytest
from IPython.core.interactiveshell import InteractiveShell

import hyper_kernel


@pytest.fixture
def shell(client, tmp_path):
    shell = InteractiveShell(ipython_dir=str(tmp_path / "ipython"))
    shell.shown = []
    shell.display_pub.publish = lambda **what: shell.shown.append(what["data"])
    hyper_kernel.load_ipython_extension(shell)
    yield shell
    hyper_kernel.unload_ipython_extension(shell)
    assert not client.sandboxes(everything=True)


def run(shell, text):
    """What a cell raised, or None."""
    return shell.run_cell(text).error_in_exec


def test_cells_values_pictures_and_scripts_of_a_named_sandbox(shell, client, capsys):
    shell.user_ns["a"] = numpy.arange(4.0)
    assert (
        run(shell, "%%hyper --name lab --in a --out c,system\nimport platform; c, system = a * 2, platform.node()")
        is None
    )
    assert shell.user_ns["c"].tolist() == [0, 2, 4, 6]
    assert shell.user_ns["system"] != platform.node()
    picture = "from IPython.display import *; import base64\nHTML('<i>x</i><script>1</script>')"
    assert run(shell, f"%%hyper --name lab\n{picture}") is None
    assert "<script" not in shell.user_ns["_"].data["text/html"]
    assert run(shell, "%%hyper --name lab --out text bash\ncat /proc/version; echo oh >&2") is None
    assert "Linux version" in shell.user_ns["text"]
    assert "oh" in capsys.readouterr().err
    assert [record.name for record in client.sandboxes()] == ["lab"]
    assert run(shell, "%hyper ps") is None
    assert "lab" in capsys.readouterr().out


def test_an_interrupt_here_interrupts_the_cell_there(shell):
    assert run(shell, "%%hyper --name lab\nn = 5") is None
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    error = run(shell, "%%hyper --name lab\nimport time\nn += 1\ntime.sleep(100)")
    timer.join()
    assert type(error).__name__ == "KeyboardInterrupt"
    assert not isinstance(error, KeyboardInterrupt)
    assert run(shell, "%%hyper --name lab --out n\n0") is None
    assert shell.user_ns["n"] == 6


def test_a_script_alone_in_an_image_says_how_it_ended(shell, client, capsys):
    assert run(shell, "%%hyper --timeout 60s sh\necho alone; ls -A /work | wc -l") is None
    assert capsys.readouterr().out == "alone\n0\n"
    assert str(run(shell, "%%hyper bash\nexit 4")) == "bash exited with 4"
    assert not client.sandboxes(everything=True)


def test_deaths_and_refusals_are_one_line(shell, client):
    error = run(shell, "%%hyper\nx = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))")
    assert "out of memory: used all of its 512 MiB" in str(error)
    assert len(error.lines) == 1
    assert "there is no image hyper/pyton" in str(run(shell, "%%hyper hyper/pyton\n1"))
    assert not client.sandboxes(everything=True)
