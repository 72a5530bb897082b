"""The splice between real libzmq sockets and real Sessions that have different keys."""

import socket
from contextlib import ExitStack, contextmanager

import pytest
import zmq
from jupyter_client.session import Session

from hyper_kernel.channels.packet import DELIMITER
from hyper_kernel.channels.zmtp import CANCEL, GREETING, PING, PONG, SUBSCRIBE, frame, ready
from tests.unit.spliced import CLIENTS_KEY, KERNEL_KEY, spliced

TIMEOUT_MS = 30_000
OLD_GREETING = GREETING[:11] + b"\0" + GREETING[12:]


@pytest.fixture
def sockets():
    """Makes sockets with bounds on waiting, and ends them."""
    with ExitStack() as stack:
        context = zmq.Context()
        stack.callback(context.destroy, linger=0)

        def make(kind, **options):
            made = context.socket(kind)
            made.rcvtimeo = made.sndtimeo = TIMEOUT_MS
            for name, value in options.items():
                setattr(made, name, value)
            return made

        yield make


@contextmanager
def between(sockets, tmp_path, channel, client_kind, kernel_kind, **options):
    """A client's and a kernel's socket with a splice between them."""
    kernel = sockets(kernel_kind)
    port = kernel.bind_to_random_port("tcp://127.0.0.1")
    with spliced(tmp_path, {channel: port}) as (info, _):
        client = sockets(client_kind, **options)
        client.connect(f"ipc://{info['ip']}-{info[channel + '_port']}")
        yield client, kernel


def shake_hands(sock, greeting, kind):
    """A socket's part of the opening, up to the peer's READY: libzmq takes no message before it has sent that."""
    sock.sendall(greeting + ready(kind, b"me"))
    stream = sock.makefile("rb")
    assert len(stream.read(64)) == 64
    assert b"READY" in stream.read(int.from_bytes(stream.read(2)[1:], "big"))
    return stream


def receive(session, sock):
    idents, message = session.recv(sock, mode=0)
    return idents, message


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize("size", [0, 300, 1_000_000])
def test_requests_and_replies_pass_between_sessions_of_different_keys(sockets, tmp_path, channel, size):
    clients, kernels = Session(key=CLIENTS_KEY), Session(key=KERNEL_KEY)
    buffers = [b"b" * size, b"", b"c" * 70_000]
    with between(sockets, tmp_path, channel, zmq.DEALER, zmq.ROUTER, identity=b"me") as (client, kernel):
        for number in range(20):
            clients.send(client, "execute_request", {"code": "x" * size, "n": number}, buffers=buffers)
            idents, request = receive(kernels, kernel)
            assert idents == [b"me"]
            assert request["content"] == {"code": "x" * size, "n": number}
            assert [bytes(buffer) for buffer in request["buffers"]] == buffers
            kernels.send(kernel, "execute_reply", {"n": number}, parent=request, ident=idents, buffers=buffers)
            _, reply = receive(clients, client)
            assert (reply["content"], reply["parent_header"]["msg_id"]) == ({"n": number}, request["msg_id"])
            assert [bytes(buffer) for buffer in reply["buffers"]] == buffers


def test_many_messages_keep_their_order(sockets, tmp_path):
    clients, kernels = Session(key=CLIENTS_KEY), Session(key=KERNEL_KEY)
    with between(sockets, tmp_path, "shell", zmq.DEALER, zmq.ROUTER, sndhwm=0) as (client, kernel):
        for number in range(1000):
            clients.send(client, "comm_msg", {"n": number})
        got = [receive(kernels, kernel)[1]["content"]["n"] for _ in range(1000)]
        assert got == list(range(1000))


@pytest.mark.parametrize("key", [KERNEL_KEY, b"", b"guessed"])
def test_what_is_not_signed_with_the_clients_key_reaches_no_kernel(sockets, tmp_path, key):
    """SECURITY: nor what is signed with the guest's own, should it ever get out."""
    clients, kernels, stranger = Session(key=CLIENTS_KEY), Session(key=KERNEL_KEY), Session(key=key)
    with between(sockets, tmp_path, "shell", zmq.DEALER, zmq.ROUTER) as (client, kernel):
        stranger.send(client, "execute_request", {"code": "evil"}, buffers=[b"b" * 1000])
        clients.send(client, "execute_request", {"code": "good"})
        assert receive(kernels, kernel)[1]["content"] == {"code": "good"}


def test_subscriptions_outputs_and_the_welcome_pass(sockets, tmp_path):
    clients, kernels = Session(key=CLIENTS_KEY), Session(key=KERNEL_KEY)
    with between(sockets, tmp_path, "iopub", zmq.SUB, zmq.XPUB) as (client, kernel):
        client.subscribe(b"")
        client.subscribe(b"topic")
        assert {kernel.recv(), kernel.recv()} == {b"\1", b"\1topic"}
        kernels.send(kernel, "iopub_welcome", {"subscription": "topic"}, ident=b"topic")
        kernels.send(kernel, "iopub_welcome", {"subscription": ""})
        assert receive(clients, client)[1]["content"] == {"subscription": "topic"}
        idents, message = receive(clients, client)
        assert (idents, message["msg_type"]) == ([], "iopub_welcome")
        client.unsubscribe(b"topic")
        assert kernel.recv() == b"\0topic"


@pytest.mark.parametrize("greeting", [GREETING, OLD_GREETING], ids=["3.1", "3.0"])
def test_a_subscriber_of_either_version_reaches_libzmq(sockets, tmp_path, greeting):
    publisher = sockets(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    with spliced(tmp_path, {"iopub": port}) as (info, _), socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{info['ip']}-{info['iopub_port']}")
        shake_hands(client, greeting, b"SUB").close()
        client.sendall(frame(SUBSCRIBE + b"t", command=True) if greeting is GREETING else frame(b"\1t"))
        assert publisher.recv() == b"\1t"


@pytest.mark.parametrize("greeting", [GREETING, OLD_GREETING], ids=["3.1", "3.0"])
def test_libzmqs_subscriber_reaches_a_publisher_of_either_version(sockets, tmp_path, greeting):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        spliced(tmp_path, {"iopub": listener.getsockname()[1]}) as (info, _),
    ):
        client = sockets(zmq.SUB)
        client.subscribe(b"t")
        client.connect(f"ipc://{info['ip']}-{info['iopub_port']}")
        publisher, _ = listener.accept()
        with publisher, shake_hands(publisher, greeting, b"XPUB") as stream:
            expected = frame(SUBSCRIBE + b"t", command=True) if greeting is GREETING else frame(b"\1t")
            assert stream.read(len(expected)) == expected
            client.unsubscribe(b"t")
            expected = frame(CANCEL + b"t", command=True) if greeting is GREETING else frame(b"\0t")
            assert stream.read(len(expected)) == expected


@pytest.mark.parametrize("kind", [zmq.REP, zmq.ROUTER])
def test_the_heartbeat_is_echoed(sockets, tmp_path, kind):
    with between(sockets, tmp_path, "hb", zmq.REQ, kind) as (client, kernel):
        for _ in range(3):
            client.send(b"ping")
            kernel.send_multipart(kernel.recv_multipart())
            assert client.recv() == b"ping"


def test_libzmqs_own_heartbeat_passes(sockets, tmp_path):
    kernel = sockets(zmq.ROUTER)
    port = kernel.bind_to_random_port("tcp://127.0.0.1")
    with spliced(tmp_path, {"shell": port}) as (info, _), socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{info['ip']}-{info['shell_port']}")
        with shake_hands(client, GREETING, b"DEALER") as stream:
            client.sendall(frame(PING + b"\0\0context", command=True))
            pong = frame(PONG + b"context", command=True)
            assert stream.read(len(pong)) == pong


def test_a_client_comes_back_after_a_guests_violation(sockets, tmp_path):
    """What the client has asked for since then arrives at the next connection."""
    clients = Session(key=CLIENTS_KEY)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        spliced(tmp_path, {"shell": listener.getsockname()[1]}) as (info, _),
    ):
        client = sockets(zmq.DEALER)
        client.connect(f"ipc://{info['ip']}-{info['shell_port']}")
        guest, _ = listener.accept()
        with guest:
            guest.sendall(b"SSH-2.0")
            clients.send(client, "kernel_info_request", {})
            again, _ = listener.accept()
        with again, shake_hands(again, GREETING, b"ROUTER") as stream:
            assert stream.read(2 + len(DELIMITER)) == frame(DELIMITER, more=True)
