"""Round trips and output of kernels, and the parts of it that are ours alone."""

import asyncio
import functools
import socket
import statistics
import time

from hyper_kernel.channels.cells import Cells
from hyper_kernel.channels.firewall import Firewall
from hyper_kernel.channels.message import Resigner
from hyper_kernel.channels.meter import Meter
from hyper_kernel.channels.packet import new_header, pack, write_json
from hyper_kernel.channels.zmtp import GREETING, Codec, ready
from hyper_kernel.policy.output import OutputPolicy
from hyper_kernel.sandbox.kernel import new_key, sign_with
from tests.performance.home import open_home, wait_settled
from tests.performance.kernels import HYPER, LOCAL, Session, open_kernel, run
from tests.performance.machines import Cloner
from tests.performance.rounds import Figures, Found, Setting, in_turn
from tests.performance.table import Row

OUTPUT_MB = 10
_TRIPS, _ECHOES = 20, 200
#: Of a round trip of ``1+1``: request, busy, input, result, idle, reply. The longest has about so many bytes.
_MESSAGES, _MESSAGE = 6, 1024
_PORT, _CHUNK = 7007, 128 * 1024
#: Sends as many bytes as it is told to, then back whatever comes.
_SERVER = f"""
import socket
server = socket.create_server(("127.0.0.1", {_PORT}))
while True:
    peer, _ = server.accept()
    peer.sendall(bytes(int.from_bytes(peer.recv(4), "big")))
    while data := peer.recv(65536):
        peer.sendall(data)
"""


async def traffic(setting: Setting) -> list[Row]:
    """Both with kernels; then a byte stream out of a guest as a kernel's channels have it, and the firewall alone."""
    with open_home(setting.data):
        async with open_kernel(LOCAL, setting.folder) as local, open_kernel(HYPER, setting.folder) as hyper:
            await wait_settled()
            works = {LOCAL: functools.partial(_talk, local), HYPER: functools.partial(_talk, hyper)}
            whole = await in_turn(setting.runs, works)
    with open_home(setting.data):
        parts = await _measure_parts(setting.runs)
    trip = _rows(
        whole, parts, "round trip of 1+1", "ms", f"{_MESSAGE >> 10} KiB there and back", f"its {_MESSAGES} messages"
    )
    return trip + _rows(whole, parts, f"{OUTPUT_MB} MB of output", "s", "as much, out", "all of it")


def _rows(whole: Found, parts: Found, what: str, unit: str, carried: str, signed: str) -> list[Row]:
    details = {
        f"vsock, agent, a TCP server in the guest: {carried}": parts.values("stream", unit),
        f"the shim's firewall, on {signed}": parts.values("codec", unit),
    }
    row = Row(what=what, unit=unit, local=whole.values(LOCAL, unit), hyper=whole.values(HYPER, unit))
    rest = statistics.median(row.hyper) - sum(map(statistics.median, details.values()))
    details["left for ipykernel in the guest, and the client"] = [rest]
    return [row, *(Row(what=name, unit=unit, hyper=values, is_detail=True) for name, values in details.items())]


async def _talk(session: Session) -> Figures:
    trips_s = [await run(session.client, "1+1") for _ in range(_TRIPS)]
    output_s = await run(session.client, f"for _ in range({OUTPUT_MB}): print('x' * 999_999)")
    return {"ms": statistics.median(trips_s) * 1000, "s": output_s}


async def _measure_parts(runs: int) -> Found:
    async with Cloner.open() as (cloner, _), cloner.start() as (guest, _):
        await cloner.resync(guest)
        server = await guest.agent.open("exec", argv=["python3", "-c", _SERVER])

        async def stream() -> Figures:
            with await guest.agent.connect(_PORT, wait_s=60) as sock:
                return await _use(sock)

        async def codec() -> Figures:
            return {"ms": _pass_messages(_MESSAGES, _MESSAGE) * 1000, "s": _pass_messages(OUTPUT_MB, 1_000_000)}

        try:
            return await in_turn(runs, {"stream": stream, "codec": codec})
        finally:
            server.close()


async def _use(sock: socket.socket) -> Figures:
    """Have the server send much, then a little back and forth."""
    loop, size = asyncio.get_running_loop(), OUTPUT_MB * 1_000_000
    began_s = time.perf_counter()
    await loop.sock_sendall(sock, size.to_bytes(4, "big"))
    await _read(sock, size)
    output_s = time.perf_counter() - began_s
    echoes_s = []
    for _ in range(_ECHOES):
        began_s = time.perf_counter()
        await loop.sock_sendall(sock, bytes(_MESSAGE))
        await _read(sock, _MESSAGE)
        echoes_s.append(time.perf_counter() - began_s)
    return {"ms": statistics.median(echoes_s) * 1000, "s": output_s}


async def _read(sock: socket.socket, size: int) -> None:
    loop = asyncio.get_running_loop()
    while size:
        data = await loop.sock_recv(sock, _CHUNK)
        assert data
        size -= len(data)


def _pass_messages(count: int, size: int) -> float:
    """Have the firewall pass messages from a kernel to its clients; seconds."""
    kernel, clients, cells = sign_with(new_key()), sign_with(new_key()), Cells()
    judge = Firewall(OutputPolicy(), cells, _refuse).from_kernel("iopub", Meter(cells))
    codec = Codec(Resigner(kernel, clients, _refuse, judge))
    assert list(codec.feed(GREETING + ready(b"PUB", b"")))
    content = {"name": "stdout", "text": "x" * size}
    parts = [write_json(part) for part in (new_header("stream"), new_header("execute_request"), {}, content)]
    message = pack(parts, kernel, prefix=[b"stream"])
    began_s = time.perf_counter()
    passed = 0
    for _ in range(count):
        for start in range(0, len(message), _CHUNK):
            passed += sum(map(len, codec.feed(memoryview(message)[start : start + _CHUNK])))
    assert passed == count * len(message)
    return time.perf_counter() - began_s


def _refuse() -> None:
    raise AssertionError("the firewall does not pass our own message")
