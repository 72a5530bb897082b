"""The splice of Jupyter's channels, over real sockets."""

import asyncio
import logging
import socket
import stat

import pytest

from hyper_kernel.channels import connection as connection_module
from hyper_kernel.channels.packet import DELIMITER
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.splice import CHANNELS, Splice
from hyper_kernel.channels.zmtp import GREETING, SUBSCRIBE, frame, ready
from hyper_kernel.errors import GuestError, HostError
from tests.unit.channel_peers import FakeKernel, connect

CLIENTS, GUEST = Signer(b"the clients'"), Signer(b"the guest's")
OPENING = GREETING + ready(b"ROUTER", b"")
WRONG = {"shell": b"\xff\xff", "iopub": frame(b"no delimiter"), "hb": b"\x04\x00"}


@pytest.fixture(autouse=True)
def no_last_words(monkeypatch):
    """Here nobody has anything to say about a kernel that closes a connection."""
    monkeypatch.setattr(connection_module, "LAST_WORDS_S", 0.01)


def make_splice(dial):
    """What passes is judged in test_firewall.py; here nothing is in the way."""
    return Splice(dial, clients=CLIENTS, kernel=GUEST, output="trusted")


def signed(signer, *buffers):
    # Its own answer: what nobody asked for does not pass.
    parts = [b'{"msg_id":"m","msg_type":"any_request"}', b'{"msg_id":"m"}', b"{}", b"{}"]
    parts = [DELIMITER, signer.sign(parts), *parts, *buffers]
    return b"".join(frame(part, more=number < len(parts)) for number, part in enumerate(parts, 1))


async def with_splice(work, tmp_path):
    kernel = FakeKernel()
    splice = make_splice(kernel.dial)
    try:
        await asyncio.wait_for(work(kernel, splice, splice.bind_ipc(tmp_path / "k")), 10)
    finally:
        await splice.close()
    assert list(tmp_path.iterdir()) == []


def run(work, tmp_path):
    asyncio.run(with_splice(work, tmp_path))


def test_each_channel_is_dialled_by_name_and_carries_both_ways(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        for channel in CHANNELS:
            reader, writer = await connect(info, channel)
            name, guest = await kernel.dialled.get()
            assert name == channel
            writer.write(OPENING)
            assert await loop.sock_recv(guest, 1000) == OPENING
            await loop.sock_sendall(guest, OPENING)
            assert await reader.readexactly(len(OPENING)) == OPENING
            guest.close()
            assert await reader.read() == b""
            writer.close()

    run(work, tmp_path)


def test_a_half_close_passes_and_the_other_way_goes_on(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        reader, writer = await connect(info, "shell")
        _, guest = await kernel.dialled.get()
        writer.write_eof()
        assert await loop.sock_recv(guest, 1) == b""
        await loop.sock_sendall(guest, OPENING)
        guest.close()
        assert await reader.read() == OPENING
        writer.close()

    run(work, tmp_path)


def test_only_this_user_may_connect(tmp_path):
    async def work(kernel, splice, info):
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(work, tmp_path)


def test_unlinked_sockets_are_bound_again_and_the_rest_is_kept(tmp_path):
    async def work(kernel, splice, info):
        (tmp_path / "k-1").unlink()
        kept = (tmp_path / "k-2").stat().st_ino
        assert splice.bind_ipc(tmp_path / "k") == info
        assert (tmp_path / "k-2").stat().st_ino == kept
        _, writer = await connect(info, "shell")
        assert (await kernel.dialled.get())[0] == "shell"
        writer.close()

    run(work, tmp_path)


def test_dropping_connections_keeps_the_listeners(tmp_path):
    async def work(kernel, splice, info):
        reader, writer = await connect(info, "iopub")
        await kernel.dialled.get()
        await splice.drop_connections()
        assert await reader.read() == b""
        _, again = await connect(info, "iopub")
        await kernel.dialled.get()
        again.close()
        writer.close()

    run(work, tmp_path)


def test_a_kernel_that_refuses_closes_the_clients_connection(tmp_path):
    async def refuse(channel):
        raise GuestError("nobody listens")

    async def work():
        splice = make_splice(refuse)
        info = splice.bind_tcp("127.0.0.1", ())
        reader, writer = await asyncio.open_connection("127.0.0.1", info["hb_port"])
        assert await reader.read() == b""
        writer.close()
        await splice.close()

    asyncio.run(work())


def test_a_slow_client_holds_the_kernel_back(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        _, writer = await connect(info, "iopub")
        _, guest = await kernel.dialled.get()
        sent, output = 0, signed(GUEST, bytes(1 << 20))
        await loop.sock_sendall(guest, OPENING)
        with pytest.raises(TimeoutError):
            while True:
                await asyncio.wait_for(loop.sock_sendall(guest, output), 0.3)
                sent += 1 << 20
        assert sent <= 4 << 20
        writer.close()

    run(work, tmp_path)


def test_messages_are_signed_anew_both_ways_and_counted(tmp_path):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        reader, writer = await connect(info, "shell")
        _, guest = await kernel.dialled.get()
        writer.write(OPENING + signed(CLIENTS))
        assert await receive(loop, guest, OPENING + signed(GUEST))
        await loop.sock_sendall(guest, OPENING + signed(GUEST, b"buffer"))
        expected = OPENING + signed(CLIENTS, b"buffer")
        assert await reader.readexactly(len(expected)) == expected
        assert (splice.traffic.inward, splice.traffic.outward) == (len(OPENING + signed(GUEST)), len(expected))
        writer.close()

    run(work, tmp_path)


async def receive(loop, sock, expected):
    got = b""
    while len(got) < len(expected):
        got += await loop.sock_recv(sock, len(expected) - len(got))
    return got == expected


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("early", [True, False], ids=["greeting", "message"])
def test_a_guest_that_breaks_the_protocol_loses_its_connection(tmp_path, caplog, channel, early):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        reader, writer = await connect(info, channel)
        _, guest = await kernel.dialled.get()
        await loop.sock_sendall(guest, b"SSH-2.0" if early else OPENING + WRONG.get(channel, signed(CLIENTS)))
        assert await reader.read() == (b"" if early else OPENING)
        assert await loop.sock_recv(guest, 1) == b""
        writer.close()
        await the_other_connections_go_on(kernel, info)

    run(work, tmp_path)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"ended a connection to {channel} for what the kernel sent: " in record.message


async def the_other_connections_go_on(kernel, info):
    _, writer = await connect(info, "control")
    _, guest = await kernel.dialled.get()
    writer.write(OPENING + signed(CLIENTS))
    assert await receive(asyncio.get_running_loop(), guest, OPENING + signed(GUEST))
    writer.close()


def test_a_forged_message_of_the_guest_ends_its_connection(tmp_path, caplog):
    async def work(kernel, splice, info):
        reader, writer = await connect(info, "iopub")
        _, guest = await kernel.dialled.get()
        sent = OPENING + signed(GUEST) + signed(Signer(b"guessed"), b"buffer")
        await asyncio.get_running_loop().sock_sendall(guest, sent)
        assert await reader.read() == OPENING + signed(CLIENTS)
        writer.close()

    run(work, tmp_path)
    assert "not signed with the kernel's key" in caplog.text


def test_a_clients_forged_messages_are_dropped_and_told_once(tmp_path, caplog):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        _, writer = await connect(info, "shell")
        _, guest = await kernel.dialled.get()
        writer.write(OPENING + signed(GUEST) * 3 + signed(CLIENTS) + signed(Signer(b""), b"buffer") + signed(CLIENTS))
        assert await receive(loop, guest, OPENING + signed(GUEST) * 2)
        writer.write_eof()
        assert await loop.sock_recv(guest, 1) == b""
        writer.close()

    run(work, tmp_path)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message == "dropped messages to shell that are not signed with the clients' key"


def test_a_flood_leaves_the_others_their_turn(tmp_path):
    async def work(kernel, splice, info):
        flooding = socket.socket(socket.AF_UNIX)
        flooding.connect(f"{info['ip']}-{info['shell_port']}")
        _, guest = await kernel.dialled.get()
        flood = asyncio.create_task(asyncio.to_thread(flooding.sendall, OPENING + signed(GUEST) * 300_000))
        assert await receive(asyncio.get_running_loop(), guest, OPENING)
        await the_other_connections_go_on(kernel, info)
        assert not flood.done()
        flooding.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(flood, return_exceptions=True)
        flooding.close()

    run(work, tmp_path)


@pytest.mark.parametrize(
    ("channel", "sent"),
    [
        *[(channel, b"\xff\xff") for channel in CHANNELS],
        ("shell", frame(SUBSCRIBE, command=True)),
        ("control", frame(b"no delimiter")),
        ("iopub", signed(CLIENTS)),
        ("hb", b"\2" + (1 << 17).to_bytes(8, "big")),
    ],
)
def test_a_clients_nonsense_ends_its_connection(tmp_path, caplog, channel, sent):
    async def work(kernel, splice, info):
        reader, writer = await connect(info, channel)
        _, guest = await kernel.dialled.get()
        writer.write(OPENING + sent)
        assert await reader.read() == b""
        assert await receive(asyncio.get_running_loop(), guest, OPENING)
        writer.close()

    run(work, tmp_path)
    assert f"ended a connection to {channel} for what a client sent: " in caplog.text


def test_all_connections_together_hold_no_more_than_the_backlog(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_BACKLOG", 1 << 20)

    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        head = b"".join(frame(part, more=True) for part in (DELIMITER, b"signature", b"{}", b"{}", b"{}"))
        unfinished = OPENING + head + b"\2" + (1 << 20).to_bytes(8, "big") + bytes(300_000)
        connections = []
        for _ in range(4):
            reader, writer = await connect(info, "iopub")
            _, guest = await kernel.dialled.get()
            sending = asyncio.create_task(loop.sock_sendall(guest, unfinished))
            connections.append((asyncio.create_task(reader.read()), sending, writer, guest))
        readers = [reading for reading, *_ in connections]
        [first], _ = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        assert first.result() == OPENING
        await splice.drop_connections()
        assert repr(splice) == f"<Splice connections=0 holds=0 in=0 out={splice.traffic.outward}>"
        for reading, sending, writer, guest in connections:
            await asyncio.gather(reading, sending, return_exceptions=True)
            writer.close()
            guest.close()

    run(work, tmp_path)
    assert "all connections together hold over 1048576 bytes" in caplog.text


def test_a_port_in_use_is_a_clear_error_and_old_ports_are_taken_again(tmp_path):
    async def work():
        first, second = make_splice(FakeKernel().dial), make_splice(FakeKernel().dial)
        info = first.bind_tcp("127.0.0.1", ())
        ports = [info[f"{channel}_port"] for channel in CHANNELS]
        with pytest.raises(HostError, match=f"port {ports[0]}"):
            second.bind_tcp("127.0.0.1", ports)
        await first.close()
        assert second.bind_tcp("127.0.0.1", ports) == info
        await second.close()

    asyncio.run(work())
