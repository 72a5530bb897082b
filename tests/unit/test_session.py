"""Sessions with kernels of this machine in place of sandboxes: outputs, values, questions, and ends."""

import base64
import os
import threading
import time

import numpy
import pytest

from hyper_kernel.errors import ConflictError, GuestError, RequestError
from hyper_kernel.session import EndedError, Session
from hyper_kernel.session.carry import pack_variables, put_variables, take_variables
from hyper_kernel.spec import SandboxSpec
from tests.fakes.local_kernels import LocalKernels


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    kernels = LocalKernels(tmp_path_factory.mktemp("k"))
    yield kernels
    kernels.close()


@pytest.fixture(scope="module")
def session(kernels):
    with Session.start(kernels, SandboxSpec(), name="lab") as session:
        yield session


def test_a_cell_shows_what_it_shows(session):
    shown = []
    reply = session.execute("print('a'); 1 + 1", shows=lambda kind, content: shown.append((kind, content)))
    assert reply["status"] == "ok"
    kinds = [kind for kind, _ in shown if kind != "execute_input"]
    assert kinds == ["stream", "execute_result"]
    assert session.python[:1] == (3,)
    assert repr(session) == "<Session lab open>"


def test_a_cell_asks_and_is_answered(session):
    asked = []
    session.execute("answer = input('who? ')", asks=lambda prompt, secret: asked.append((prompt, secret)) or "me")
    assert asked == [("who? ", False)]
    assert take_variables(session, ["answer"]) == {"answer": "me"}


def test_the_first_cell_may_ask(kernels):
    for _ in range(8):  # it took half of them too early
        with Session.start(kernels, SandboxSpec()) as session:
            session.execute("answer = input()", asks=lambda prompt, secret: "me", deadline_s=time.monotonic() + 20)


def test_variables_go_in_and_out(session):
    put_variables(session, pack_variables({"a": numpy.arange(3), "b": {"k": (1, 2)}}))
    session.execute("c = a * 2")
    found = take_variables(session, ["b", "c"])
    assert found["b"] == {"k": (1, 2)}
    assert found["c"].tolist() == [0, 2, 4]


def test_large_variables_go_out_by_a_file_of_which_nothing_is_left(session):
    session.execute("big = b'x' * 1_000_000")
    assert len(take_variables(session, ["big"])["big"]) == 1_000_000
    session.execute("import glob; left = glob.glob('/tmp/.hyper-*')")
    assert not [path for path in take_variables(session, ["left"])["left"] if os.path.getsize(path) >= 1_000_000]


def test_what_cannot_go_out_is_named(session):
    session.execute("f = open('/dev/null')")
    with pytest.raises(RequestError, match="there is no variable nobody"):
        take_variables(session, ["nobody"])
    with pytest.raises(RequestError, match="f is a _io"):
        take_variables(session, ["f"])


@pytest.mark.parametrize(
    "answer",
    ["'x' * 3_000_000", "7", "'not base64!'", "None", "'gASVAAAAAA=='", repr(base64.b64encode(b"\x80\x04N.").decode())],
)
def test_a_kernel_that_lies_about_values_is_not_believed(session, answer):
    take_variables(session, [])
    inside = "__import__('sys').modules['hyper_kernel.session.inside']"
    session.execute(f"kept = {inside}.take_outgoing; {inside}.take_outgoing = lambda path, most: {answer}")
    try:
        with pytest.raises(GuestError):
            take_variables(session, ["answer"])
    finally:
        session.execute(f"{inside}.take_outgoing = kept")


def test_a_kernel_cannot_set_other_variables(session):
    inside = "__import__('sys').modules['hyper_kernel.session.inside']"
    formats = "__import__('sys').modules['hyper_kernel.values.formats']"
    session.execute(
        f"kept = {inside}.take_outgoing, {inside}.take_variables\n"
        f"{inside}.take_variables = lambda: {inside}.set_outgoing({formats}.encode({{'os': 1}}))"
    )
    try:
        with pytest.raises(GuestError, match="did not send answer"):
            take_variables(session, ["answer"])
    finally:
        session.execute(f"{inside}.take_outgoing, {inside}.take_variables = kept")


def test_a_file_larger_than_may_be_is_not_read(session, tmp_path):
    (tmp_path / "f").write_bytes(bytes(2000))
    with pytest.raises(GuestError, match="no file of at most"):
        session.read_file(str(tmp_path / "f"), 1000)
    with pytest.raises(GuestError, match="no file"):
        session.read_file(str(tmp_path), 1000)


def test_a_deadline_ends_the_wait_and_an_interrupt_the_cell(session):
    with pytest.raises(TimeoutError, match="lab takes too long"):
        session.execute("import time; time.sleep(100)", deadline_s=time.monotonic() + 0.2)
    session.interrupt()
    assert session.execute("1")["status"] == "ok"


def test_a_name_in_use_is_refused(kernels, session):
    with pytest.raises(ConflictError, match="there is a sandbox lab already"):
        Session.start(kernels, SandboxSpec(), name="lab")


def test_an_end_is_told_with_its_reason_and_again(kernels):
    with Session.start(kernels, SandboxSpec()) as session:
        with pytest.raises(EndedError, match="ended: out of memory: used all of its 512 MiB"):
            session.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert not session.is_alive()
        with pytest.raises(EndedError, match="out of memory"):
            session.execute("1")
    assert session.id not in kernels.children


def test_another_thread_ends_what_runs(kernels):
    with Session.start(kernels, SandboxSpec()) as session:
        timer = threading.Timer(0.2, session.kill)
        timer.start()
        with pytest.raises(EndedError, match="was ended"):
            session.execute("import time; time.sleep(100)")
        timer.join()
