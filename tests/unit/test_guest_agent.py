"""The agent's control stream, and how it opens streams."""

import pytest

from hyper_kernel import wire
from hyper_kernel.wire import Type
from tests.unit.guest_peer import request, start_agent


@pytest.fixture
def agent(tmp_path):
    with start_agent(tmp_path) as peer:
        yield peer


def test_hello_says_what_runs(agent):
    kind, hello = agent.dial().open("control")
    assert kind is Type.HELLO
    assert hello["version"] == wire.VERSION
    assert hello["kernel"] and hello["python"]


def test_host_of_another_version_is_left(agent):
    control = agent.dial()
    control.open("control")
    control.send(Type.WELCOME, {"version": wire.VERSION + 1})
    with pytest.raises(StopIteration):
        control.receive()


def test_nothing_is_served_before_resync(agent):
    control = agent.meet()
    assert request(control, "stats")["error"] == "stats came before resync"
    assert agent.dial().open("exec", argv=["true"])[1]["error"].endswith("resync comes first")


def test_new_control_stream_ends_the_older_and_asks_for_resync(agent):
    older = agent.ready()
    newer = agent.meet()
    with pytest.raises(StopIteration):
        older.receive()
    assert "resync" in request(newer, "stats")["error"]


def test_unknown_operation_is_an_error_and_the_link_lives(agent):
    control = agent.ready()
    assert request(control, "dance")["error"] == "the agent does not know the operation dance"
    assert request(control, "kernel.signal", signal=9) == {"id": 1, "result": {}}


def test_missing_argument_is_named(agent):
    assert request(agent.ready(), "kernel.signal")["error"] == "argument 'signal' is missing"


def test_unknown_stream_is_refused(agent):
    agent.ready()
    assert agent.dial().open("dance") == (Type.REFUSED, {"error": "the agent does not know streams of kind dance"})


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff\x10", wire.pack(Type.STDIN, b"x"), b"\0\0\0\2\x10[]", b"\0"])
def test_garbage_ends_its_stream_alone(agent, garbage):
    control = agent.ready()
    stream = agent.dial()
    stream.sock.sendall(garbage)
    stream.sock.shutdown(1)
    assert stream.sock.recv(100) == b""
    assert "result" in request(control, "kernel.signal", signal=9)


def test_connect_is_a_plain_byte_stream(agent):
    agent.ready()
    ports = agent.exec(
        "python3",
        "-c",
        "import socket;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);"
        "c,_=s.accept();d=c.recv(100);c.sendall(d*1000);c.shutdown(1);print(c.recv(9))",
    )
    port = int(ports.receive_raw()[1])
    stream = agent.dial()
    assert stream.open("connect", port=port, wait_s=5) == (Type.OPENED, {})
    stream.sock.sendall(b"ping" * 20)
    received = b""
    while data := stream.sock.recv(65536):
        received += data
    assert received == b"ping" * 20_000
    stream.sock.shutdown(1)
    assert ports.receive_all()[0] == {"code": 0, "signal": None}


def test_connect_to_nobody_is_refused_after_its_time(agent):
    agent.ready()
    kind, refusal = agent.dial().open("connect", port=1, wait_s=0.05)
    assert kind is Type.REFUSED
    assert "refused" in refusal["error"]
