"""The shim's own client of a kernel, against peers that behave and peers that do not."""

import asyncio
import contextlib
import json
import socket
import threading
import tracemalloc
from contextlib import contextmanager

import pytest
import zmq
from jupyter_client.session import Session

from hyper_kernel.channels.client import MAX_REPLY, KernelClient
from hyper_kernel.channels.packet import DELIMITER
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import GREETING, PONG, frame, ready
from hyper_kernel.errors import GuestError

KEY = Signer(b"the guest's")
OPENING = GREETING + ready(b"ROUTER", b"")


def reply(parent, content, *, signer=KEY, buffers=()):
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in ({}, parent, {}, content)]
    parts = [DELIMITER, signer.sign(parts), *parts, *buffers]
    return b"".join(frame(part, more=number < len(parts)) for number, part in enumerate(parts, 1))


async def ask(answer, *, deadline_s=20.0, opening=OPENING):
    """One request to a peer that sends ``answer(msg_id)``; what the client makes of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)

    async def serve():
        writer.write(opening)
        await reader.readexactly(64)
        await reader.readexactly((await reader.readexactly(2))[1])
        parts = [await read_frame(reader) for _ in range(6)]
        writer.write(answer(json.loads(parts[2])["msg_id"]))
        await writer.drain()

    serving = asyncio.create_task(serve())
    try:
        async with KernelClient.open(ours, KEY, deadline_s=deadline_s) as client:
            return await client.request("kernel_info_request", {}, deadline_s=deadline_s)
    finally:
        assert ours.fileno() == -1
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        writer.close()


async def read_frame(reader):
    flags, size = await reader.readexactly(2)
    if flags & 2:
        size = int.from_bytes(bytes([size]) + await reader.readexactly(7), "big")
    return await reader.readexactly(size)


@contextmanager
def router():
    """A real ROUTER socket and a socket that is connected to it."""
    context = zmq.Context()
    try:
        sock = context.socket(zmq.ROUTER)
        sock.rcvtimeo = 20_000
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setblocking(False)
        yield sock, connected
    finally:
        context.destroy(linger=0)


def test_asks_a_session_behind_libzmq():
    asked = []

    def serve(sock):
        session = Session(key=b"the guest's")
        for _ in range(2):
            idents, request = session.recv(sock, mode=0)
            asked.append((request["msg_type"], request["content"]))
            for parent in ({"msg_id": "of another"}, request):
                content = {"status": "ok", "got": request["content"]} if parent is request else {}
                session.send(sock, "reply", content, parent=parent, ident=idents, buffers=[b"b" * 100_000])

    async def work(sock):
        async with KernelClient.open(sock, KEY) as client:
            first = await client.request("kernel_info_request", {})
            second = await client.request("execute_request", {"code": "é" * 1000})
            return first, second

    with router() as (sock, connected):
        serving = threading.Thread(target=serve, args=(sock,))
        serving.start()
        first, second = asyncio.run(work(connected))
        serving.join()
    assert first == {"status": "ok", "got": {}}
    assert second == {"status": "ok", "got": {"code": "é" * 1000}}
    assert [kind for kind, _ in asked] == ["kernel_info_request", "execute_request"]


def test_replies_to_others_and_commands_are_passed_over():
    def answer(ours):
        ping = frame(PONG, command=True)
        return (
            reply({"msg_id": "x"}, {"n": 1}, buffers=[b"b" * 300])
            + ping
            + reply({}, {})
            + reply({"msg_id": ours}, {"n": 2})
        )

    assert asyncio.run(ask(answer)) == {"n": 2}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda ours: reply({"msg_id": ours}, {}, signer=Signer(b"another")), "not signed with its key"),
        (lambda ours: reply({"msg_id": ours}, {}, signer=Signer(b"")), "not signed with its key"),
        (lambda ours: reply({"msg_id": ours}, b"\xff"), "is not JSON"),
        (lambda ours: reply({"msg_id": ours}, b"[" * 100_000), "is not JSON"),
        (lambda ours: reply({"msg_id": ours}, b"1" * 10_000), "is not JSON"),
        (lambda ours: reply({"msg_id": ours}, b"[]"), "no JSON object"),
        (lambda ours: reply({"msg_id": ours}, {"x": "y" * MAX_REPLY}), "over 1048576"),
        (lambda ours: b"\xff\xff", "flags are 0xff"),
        (lambda ours: frame(b"no delimiter"), "lacks parts"),
    ],
)
def test_an_answer_that_is_wrong_is_the_guests_failure(answer, reason):
    with pytest.raises(GuestError, match=reason):
        asyncio.run(ask(answer))


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (b"SSH-2.0", "signature is not"),
        (GREETING[:12] + b"CURVE", "mechanism is not"),
        (OPENING[:64] + b"\0\0", "READY"),
    ],
)
def test_another_protocol_is_the_guests_failure(opening, reason):
    with pytest.raises(GuestError, match=f"broke the protocol of its channel: .*{reason}"):
        asyncio.run(ask(lambda ours: b"", opening=opening))


def test_a_closed_connection_is_the_guests_failure():
    async def work():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()
        async with KernelClient.open(ours, KEY):
            pass

    with pytest.raises(GuestError, match=r"closed its connection|connection to the kernel broke"):
        asyncio.run(work())


def test_silence_ends_at_the_deadline():
    with pytest.raises(GuestError, match=r"did not answer kernel_info_request within 0\.3 s"):
        asyncio.run(ask(lambda ours: b"", deadline_s=0.3))
    with pytest.raises(GuestError, match=r"did not shake hands within 0\.1 s"):
        asyncio.run(ask(lambda ours: b"", opening=b"", deadline_s=0.1))


def test_a_flood_does_not_hold_the_deadline_off():
    def flood(sock):
        with sock, contextlib.suppress(OSError):
            sock.sendall(OPENING)
            for _ in range(200):
                sock.sendall(reply({"msg_id": "x"}, {}) * 1000)

    async def work():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        flooding = threading.Thread(target=flood, args=(theirs,))
        flooding.start()
        try:
            async with KernelClient.open(ours, KEY) as client:
                await client.request("kernel_info_request", {}, deadline_s=0.3)
        finally:
            flooding.join()

    with pytest.raises(GuestError, match="did not answer kernel_info_request within"):
        asyncio.run(work())


def test_endless_commands_and_replies_to_others_do_not_fill_memory():
    flood = frame(PONG, command=True) * 50_000 + reply({"msg_id": "x"}, {}, buffers=[b""]) * 500

    def answer(ours):
        return flood + reply({"msg_id": ours}, {})

    tracemalloc.start()
    try:
        assert asyncio.run(ask(answer)) == {}
        assert tracemalloc.get_traced_memory()[1] < 4 * len(flood) + (1 << 20)
    finally:
        tracemalloc.stop()
