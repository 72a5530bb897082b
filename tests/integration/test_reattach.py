"""A Jupyter server is killed while a cell runs; the next one of its folder gives the notebook its kernel back."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import websocket

from hyper_kernel.jupyter import kernelspec
from tests.fakes.fixtures import wait_until

TOKEN = "only-for-this-test"
_COMMAND = [str(Path(sys.executable).with_name("jupyter")), "server", "--no-browser", "--port=0", "--allow-root"]
_PIPES = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


class Server:
    """A Jupyter server, started by its own command."""

    def __init__(self, process):
        self.process = process
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token", line):
                break
        self.port = found[1]
        headers = {"Authorization": f"token {TOKEN}"}
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/", headers=headers, timeout=120)

    def ask(self, method, path, **options):
        answer = self._http.request(method, path, **options).raise_for_status()
        return answer.json() if answer.content else None

    def open(self, kernel_id, session):
        """A front end's websocket."""
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels?session_id={session}&token={TOKEN}"
        return Front(websocket.create_connection(url, timeout=120), session)


class Front:
    """What a notebook does on its websocket."""

    def __init__(self, socket, session):
        self._socket, self._session = socket, session

    def execute(self, code):
        """Ask for a cell; the request's id."""
        header = {"msg_id": uuid4().hex, "session": self._session, "msg_type": "execute_request", "version": "5.3"}
        header |= {"username": "", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps(message))
        return header["msg_id"]

    def hear(self, parent, until=lambda message: _is_end(message)):
        """Messages about a request, up to the one that is the last."""
        heard = []
        while True:
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") == parent:
                heard.append(message)
                if until(message):
                    return heard

    def run(self, code):
        """What a cell prints."""
        return _printed(self.hear(self.execute(code)))

    def close(self):
        self._socket.close()


def _is_end(message):
    return message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"


def _printed(messages, name="stdout"):
    texts = (each["content"] for each in messages if each["msg_type"] == "stream")
    return "".join(content["text"] for content in texts if content["name"] == name)


@pytest.fixture
def serve(home, tmp_path, monkeypatch):
    """A context manager: a server of one folder."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    kernelspec.install()
    folder = tmp_path / "notebooks"
    folder.mkdir()

    @contextmanager
    def serve():
        command = [*_COMMAND, f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
        with subprocess.Popen(command, env=os.environ | {"JUPYTER_PLATFORM_DIRS": "1"}, **_PIPES) as process:
            try:
                yield Server(process)
            finally:
                process.terminate()
                process.stderr.close()

    return serve


#: 24 MiB in lines of a KiB, after the server is gone.
_FLOOD = """
import time
print("begun", flush=True)
time.sleep(1)
for block in range(24):
    print("".join(f"{line:>1023}\\n" for line in range(block << 10, block + 1 << 10)), end="", flush=True)
open("/tmp/flooded", "w").close()
"""
NOTEBOOK = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "hyper-python"}}


def _begin(server, code, first):
    """A notebook whose kernel knows ``x``, and which runs ``code`` and has said ``first``: session, request, front."""
    session = server.ask("POST", "sessions", json=NOTEBOOK)
    front = server.open(session["kernel"]["id"], session["id"])
    assert front.run("x = 41; print('ready')") == "ready\n"
    request = front.execute(code)
    heard = front.hear(request, lambda message: first in str(message["content"].get("text")))
    return session, request, _printed(heard)


def test_a_notebook_finds_its_kernel_after_its_server_was_killed(serve):
    # Silent while the server is killed: what that had heard, and not passed on, would be lost with it.
    pause = "time.sleep(3 if i == 1 else 0.25)"
    code = f"import time\nfor i in range(40):\n    print(f'[{{i}}]', end='', flush=True)\n    {pause}"
    with serve() as server:
        session, request, before = _begin(server, code, "[1]")
        server.process.kill()
    with serve() as server:
        (again,) = server.ask("GET", "sessions")
        assert (again["id"], again["path"]) == (session["id"], "a.ipynb")
        assert again["kernel"]["id"] == session["kernel"]["id"]
        front = server.open(again["kernel"]["id"], session["id"])
        after = front.hear(request)
        assert _printed(after, "stderr") == ""
        # Not a tick is lost; the one that was under way when the server died may be heard twice.
        ticks = [int(tick) for tick in re.findall(r"\d+", before + _printed(after))]
        assert sorted(set(ticks)) == list(range(40))
        assert len(ticks) <= 41
        assert front.run("print(x + 1)") == "42\n"
        front.close()
        server.ask("DELETE", f"sessions/{session['id']}")


def test_what_is_too_much_to_keep_is_cut_and_said_to_be(serve, client):
    with serve() as server:
        session, request, _ = _begin(server, _FLOOD, "begun")
        server.process.kill()
    (sandbox,) = client.sandboxes()
    wait_until(lambda: client.stat_path(sandbox.id, "/tmp/flooded"), 60)
    with serve() as server:
        front = server.open(session["kernel"]["id"], session["id"])
        heard = front.hear(request)
        assert "[some of what this kernel said while the server was away is lost]" in _printed(heard, "stderr")
        text = _printed(heard)
        lines = [int(line) for line in re.findall(r"^ *(\d+)\n", text, re.MULTILINE)]
        assert lines[:1000] == list(range(lines[0], lines[0] + 1000))
        assert (1 << 20) < len(text) < (17 << 20)
        assert front.run("print(x + 1)") == "42\n"
        front.close()
        server.ask("DELETE", f"sessions/{session['id']}")
