"""A web server that nobody has a reason to ask; it keeps what it was asked."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Canary(ThreadingHTTPServer):
    """``requests``: method and address of each so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/"
        self.requests: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.add(f"{self.command} {self.server.address}{self.path[1:]}")
        self.send_response(204)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()

    do_POST = do_PUT = do_HEAD = do_OPTIONS = do_GET

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@contextmanager
def start_canary():
    """A running :class:`Canary`."""
    with Canary() as canary:
        threading.Thread(target=canary.serve_forever, daemon=True).start()
        yield canary
        canary.shutdown()
