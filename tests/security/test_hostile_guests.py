"""Guests that do their worst beside one that works (``arena.py``): each ends by a named reason, or goes on bounded."""

from contextlib import closing
from pathlib import Path

import pytest

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.paths import find_paths
from hyper_kernel.spec import Limits, ProcessSpec, SandboxSpec
from tests.integration.conftest import assert_nothing_lives, show_logs
from tests.security.arena import PING_S, Arena, assert_gone, memory_mib

#: What hostile output may cost the server in front of the kernel, and the shim, in MiB.
SERVER_MIB, SHIM_MIB = 128, 200
_OUTPUT = Limits(output_bytes=16 << 20)

EXHAUST = {
    "fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "threads": """
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
    except RuntimeError: pass
""",
    "files": """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
while True:
    try: os.pipe()
    except OSError: pass
""",
    "disk": """
while True:
    try:
        with open("/work/fill", "ab") as file:
            while True: file.write(bytes(1 << 20))
    except OSError: pass
""",
    "memory": """
held = []
while True: held.append(b"x" * (8 << 20))
""",
    "processor": """
while True: pass
""",
}
FLOODS = {
    "stdout": """
while True: print("x" * 8000)
""",
    "short lines": """
import sys
while True: print("x", flush=True)
""",
    "display": """
from IPython.display import display
while True: display({"text/plain": "x" * 1_000_000}, raw=True)
""",
    "large display": """
from IPython.display import display
while True: display({"text/plain": "x" * 30_000_000}, raw=True)
""",
    "buffers": """
from comm import create_comm
comm = create_comm("hyper")
while True: comm.send({}, buffers=[bytes(4 << 20)])
""",
    "comms": """
from comm import create_comm
while True: create_comm("hyper", data={"x": "y" * 10_000}).send({"x": "y" * 10_000})
""",
    "other requests": """
kernel = get_ipython().kernel
parent = {"header": {"msg_id": "no such", "msg_type": "execute_request", "session": "another's"}}
while True:
    for kind, content in ("status", {"execution_state": "idle"}), ("stream", {"name": "stdout", "text": "x" * 1000}):
        kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=b"x")
""",
}
VSOCK = {
    "connections": """
import socket
held = []
while True:
    for port in range(1, 2000):
        sock = socket.socket(socket.AF_VSOCK)
        sock.setblocking(False)
        try: sock.connect((2, port))
        except OSError: pass
        held = held[-500:] + [sock]
""",
    "packets to strangers": """
import socket
while True:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        for cid in (0, 1, 2, 3, 99):
            try:
                sock = socket.socket(socket.AF_VSOCK, kind)
                sock.settimeout(0.05)
                sock.connect((cid, 1024))
                sock.sendall(bytes(1000))
            except OSError: pass
            sock.close()
""",
    "a crowd at the agent": """
import socket, time
held = []
for _ in range(400):
    for cid in (1, 3):
        sock = socket.socket(socket.AF_VSOCK)
        sock.settimeout(1)
        try:
            sock.connect((cid, 1024))
            sock.sendall(bytes([0, 0, 0, 9, 16]))
        except OSError: pass
        held.append(sock)
time.sleep(99)
""",
}
#: Root in the image against the agent, which is process 1 outside of it.
TAKE_OVER = {
    "stop it": """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
print("attach:", libc.ptrace(16, 1, None, None), flush=True)
time.sleep(99)
""",
    "overwrite it": """
import os
rows = [row.split() for row in open("/proc/1/maps")]
with open("/proc/1/mem", "r+b", buffering=0) as memory:
    for places, mode, *_ in rows:
        start, end = (int(number, 16) for number in places.split("-"))
        if mode.startswith("rw"):
            try:
                memory.seek(start)
                memory.write(os.urandom(end - start))
            except OSError: pass
""",
    "panic": """
open("/proc/sysrq-trigger", "w").write("c")
""",
    "kill all": """
import os
os.kill(-1, 9)
""",
}


@pytest.fixture(scope="module")
def arena(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("hyper")
    (root / "data").symlink_to(shared_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPER_HOME", str(root))
        paths = find_paths()
        try:
            arena = Arena()
            yield arena
            arena.close()
        finally:
            for sandbox in Client().sandboxes(everything=True):
                Client().remove(sandbox.id, force=True)
            stop_daemon(paths)
            show_logs(paths)
            assert_nothing_lives(root, paths)


@pytest.mark.parametrize("what", EXHAUST)
def test_who_uses_up_its_machine_has_used_up_no_other(arena, what):
    ends = "out of memory: used all of its 512 MiB" if what == "memory" else ""
    with arena.attacked(EXHAUST[what], ends=ends) as attack:
        assert attack.shim_mib < SHIM_MIB


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_fills_nobodys_memory(arena, what):
    with arena.attacked(FLOODS[what], limits=_OUTPUT) as attack:
        assert attack.heard["grown_mib"] < SERVER_MIB
        assert attack.shim_mib < SHIM_MIB


def test_programs_that_flood_who_does_not_read_wait(arena):
    flood = ("sh", "-c", "while true; do head -c 1000000 /dev/zero; done")
    record = arena.client.create(SandboxSpec(process=ProcessSpec(argv=flood)))
    hyperd = arena.client.status()["pid"]
    before_mib = memory_mib(hyperd)
    with closing(arena.client.attach(record.id)):
        arena.client.start(record.id)
        with closing(arena.client.exec(record.id, flood).stream):
            _, ping_s = arena.round_trip(20)
            record = arena.client.sandbox(record.id)
            assert memory_mib(record.shim_pid) < SHIM_MIB and memory_mib(hyperd) - before_mib < 16
            assert ping_s < PING_S
    arena.client.remove(record.id, force=True)
    assert_gone(record)


@pytest.mark.parametrize("what", VSOCK)
def test_a_guest_that_abuses_its_vsock_gets_refusals(arena, what):
    with arena.attacked(VSOCK[what]) as attack:
        assert attack.shim_mib < SHIM_MIB


@pytest.mark.parametrize("what", TAKE_OVER)
def test_who_takes_over_the_agent_has_taken_over_one_guest(arena, what):
    with arena.attacked(TAKE_OVER[what], ends="guest panic: " if what in ("overwrite it", "panic") else "") as attack:
        assert attack.shim_mib < SHIM_MIB


@pytest.mark.parametrize("mode", ["noise", "giant", "endless", "parts", "forged", "stall", "reset"])
def test_a_kernel_that_speaks_no_zeromq_reaches_no_client(arena, mode):
    program = Path(__file__).with_name("garbage_kernel.py").read_text()
    code = f"import os\nos.execvp('python3', ['python3', '-c', {program!r}, {mode!r}])"
    ends = "firewall violation: " if mode in ("noise", "giant", "parts", "forged") else ""
    with arena.attacked(code, ends=ends) as attack:
        # Of these, "stream", "error" and the second "status" are the shim's last words about a kernel that was ended.
        assert set(attack.heard["kinds"]) <= {"status", "execute_input", "iopub_welcome", "stream", "error"}
        assert "forged" not in attack.heard["texts"]
        assert attack.heard["grown_mib"] < SERVER_MIB
        assert attack.shim_mib < SHIM_MIB
