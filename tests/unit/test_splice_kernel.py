"""A real ipykernel behind a splice, driven by jupyter_client with another key than the kernel's."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from hyper_kernel.channels.client import KernelClient
from hyper_kernel.channels.signing import Signer
from hyper_kernel.errors import GuestError
from tests.unit.spliced import CLIENTS_KEY, KERNEL_KEY, spliced

TIMEOUT_S = 60
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


@contextmanager
def ipykernel(folder):
    """A kernel that signs with the guest's key: its process and its ports by channel."""
    path, info = write_connection_file(str(folder / "kernel.json"), key=KERNEL_KEY)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", path, "--HistoryManager.hist_file=:memory:"]
    env = os.environ | {"IPYTHONDIR": str(folder / "ipython"), "JPY_PARENT_PID": "1"}
    process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_listening(info["hb_port"])  # clients take a kernel that is late for a dead one
        yield process, {channel: info[f"{channel}_port"] for channel in CHANNELS}
    finally:
        process.kill()
        process.wait()


def wait_listening(port):
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)  # there is no event for another process's listening


@pytest.fixture(scope="module")
def kernel():
    with tempfile.TemporaryDirectory() as folder, ipykernel(Path(folder)) as (process, ports):
        yield process, ports


@contextmanager
def connected(folder, ports, key=CLIENTS_KEY, output="sanitize"):
    with spliced(folder, ports, output=output) as (info, _):
        client = BlockingKernelClient()
        client.load_connection_info(info | {"key": key, "signature_scheme": "hmac-sha256"})
        client.start_channels()
        try:
            yield client
        finally:
            client.stop_channels()


@pytest.fixture
def client(kernel, tmp_path):
    _, ports = kernel
    with connected(tmp_path, ports) as client:
        client.wait_for_ready(TIMEOUT_S)
        yield client


def execute(client, code, **kwargs):
    """The reply and the messages of a cell."""
    outputs = []
    reply = client.execute_interactive(code, timeout=TIMEOUT_S, output_hook=outputs.append, **kwargs)
    return reply["content"], outputs


def test_output_and_replies_come(client):
    reply, outputs = execute(client, "print('hello'); 6 * 7")
    assert reply["status"] == "ok"
    kinds = [message["msg_type"] for message in outputs]
    assert kinds == ["status", "execute_input", "stream", "execute_result", "status"]
    assert outputs[2]["content"] == {"name": "stdout", "text": "hello\n"}
    assert outputs[3]["content"]["data"] == {"text/plain": "42"}


def test_the_subscriber_is_welcomed(kernel, tmp_path):
    _, ports = kernel
    with connected(tmp_path, ports) as client:
        message = client.get_iopub_msg(timeout=TIMEOUT_S)
        assert (message["msg_type"], message["content"]) == ("iopub_welcome", {"subscription": ""})


def test_the_kernel_asks_and_gets_an_answer(client):
    def answer(message):
        assert message["content"]["prompt"] == "who? "
        client.input("me")

    _, outputs = execute(client, "print(input('who? '))", stdin_hook=answer, allow_stdin=True)
    assert "me\n" in [message["content"].get("text") for message in outputs]


ECHO = """
from comm import get_comm_manager
def opened(comm, message):
    comm.on_msg(lambda m: comm.send({'n': len(m['buffers'])}, buffers=[bytes(b)[::-1] for b in m['buffers']]))
get_comm_manager().register_target('echo', opened)
"""


@pytest.fixture
def trusting(kernel, tmp_path):
    _, ports = kernel
    with connected(tmp_path, ports, output="trusted") as client:
        client.wait_for_ready(TIMEOUT_S)
        yield client


def test_a_comms_buffers_go_there_and_back(trusting):
    client = trusting
    execute(client, ECHO)
    session, shell = client.session, client.shell_channel
    buffers = [b"ab", b"", bytes(range(256)) * 4000]
    shell.send(session.msg("comm_open", {"comm_id": "c", "target_name": "echo", "data": {}}))
    message = session.msg("comm_msg", {"comm_id": "c", "data": {}})
    message["buffers"] = buffers
    shell.send(message)
    while (message := client.get_iopub_msg(timeout=TIMEOUT_S))["msg_type"] != "comm_msg":
        pass
    assert message["content"]["data"] == {"n": 3}
    assert [bytes(buffer)[::-1] for buffer in message["buffers"]] == buffers


def test_ten_megabytes_of_output_come(client):
    code = "from IPython.display import display; display({'text/plain': 'x' * 10_000_000}, raw=True)"
    _, outputs = execute(client, code)
    [shown] = [message for message in outputs if message["msg_type"] == "display_data"]
    assert shown["content"]["data"]["text/plain"] == "x" * 10_000_000


@pytest.mark.parametrize("way", ["signal", "message"])
def test_a_cell_is_interrupted(client, kernel, way):
    process, _ = kernel

    def interrupt(message):
        if message["content"].get("text") == "running\n":
            if way == "signal":
                process.send_signal(signal.SIGINT)
            else:
                client.control_channel.send(client.session.msg("interrupt_request", {}))

    code = "import threading; print('running', flush=True); threading.Event().wait()"
    reply = client.execute_interactive(code, timeout=TIMEOUT_S, output_hook=interrupt)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    if way == "message":
        assert client.get_control_msg(timeout=TIMEOUT_S)["content"]["status"] == "ok"


def test_the_heart_beats(client):
    heart = client.connect_hb()
    heart.rcvtimeo = TIMEOUT_S * 1000
    heart.send(b"ping")
    assert heart.recv() == b"ping"
    heart.close()


def test_the_guests_key_opens_nothing(kernel, client, tmp_path):
    """SECURITY: who learns it inside a guest cannot use it at the host's sockets."""
    _, ports = kernel
    (tmp_path / "thief").mkdir()
    with connected(tmp_path / "thief", ports, key=KERNEL_KEY) as thief:
        stolen = thief.execute("stolen = True")
        asked = thief.kernel_info()
        # Both were sent before this one, whose connection has come up by now.
        thief.session.key = CLIENTS_KEY
        thief.execute("checked = 'stolen' in globals()", silent=True)
        reply = thief.get_shell_msg(timeout=TIMEOUT_S)
        assert reply["parent_header"]["msg_id"] not in (stolen, asked)
    _, outputs = execute(client, "checked")
    assert "False" in [message["content"].get("data", {}).get("text/plain") for message in outputs]


def ask_kernel(ports, key, *requests, deadline_s=TIMEOUT_S):
    async def work():
        sock = socket.create_connection(("127.0.0.1", ports["shell"]))
        sock.setblocking(False)
        async with KernelClient.open(sock, Signer(key)) as asking:
            return [await asking.request(kind, content, deadline_s=deadline_s) for kind, content in requests]

    return asyncio.run(work())


def test_the_shims_own_client_asks_the_kernel(kernel, client):
    _, ports = kernel
    execution = {
        "code": "answer = 6 * 7",
        "silent": True,
        "store_history": False,
        "user_expressions": {"answer": "answer"},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    wrong = execution | {"code": "1/0", "user_expressions": {}}
    requests = [("kernel_info_request", {}), ("execute_request", execution), ("execute_request", wrong)]
    info, done, failed = ask_kernel(ports, KERNEL_KEY, *requests)
    assert (info["status"], info["implementation"]) == ("ok", "ipython")
    assert done["user_expressions"]["answer"]["data"] == {"text/plain": "42"}
    assert (failed["status"], failed["ename"]) == ("error", "ZeroDivisionError")


def test_the_kernel_takes_nothing_from_a_client_with_another_key(kernel, client):
    _, ports = kernel
    with pytest.raises(GuestError, match="did not answer kernel_info_request within"):
        ask_kernel(ports, CLIENTS_KEY, ("kernel_info_request", {}), deadline_s=0.5)


def test_the_kernel_shuts_down_when_asked(tmp_path):
    with ipykernel(tmp_path) as (process, ports), connected(tmp_path, ports) as client:
        client.wait_for_ready(TIMEOUT_S)
        client.shutdown(reply=True, timeout=TIMEOUT_S)
        assert process.wait(TIMEOUT_S) == 0
