"""HTTP on a Unix socket by tornado: calls with streamed bodies, streamed answers, and connections taken over.

The only module that knows tornado. Each request becomes a :class:`Call` and one task that runs its handler; a client
that goes away cancels that task.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from hyper_kernel import __version__
from hyper_kernel.daemon.errors import as_json
from hyper_kernel.daemon.routing import API_VERSION, MIN_API_VERSION, Answer, Routes, strip_version
from hyper_kernel.errors import ConflictError, HyperError, InternalError, NotFoundError, RequestError

log = logging.getLogger(__name__)

#: Largest JSON body that is read, in bytes.
MAX_JSON = 4 << 20
#: Largest archive that may be sent in, in bytes; the guest's disk is the real limit.
MAX_BODY = 64 << 30
#: How long a client whose program has ended may take to close, in seconds.
_LINGER_S = 1.0
_HEADERS = {
    "Server": f"Hyper/{__version__} (linux)",
    "Api-Version": API_VERSION,
    "Min-Api-Version": MIN_API_VERSION,
    "Ostype": "linux",
    "Docker-Experimental": "false",
}


class Hijacked:
    """A connection that has left HTTP: the bare socket, and what the client sent before that was read with HTTP."""

    def __init__(self, stream: IOStream) -> None:
        # A tornado stream closes both ways when the client closes one; `docker run -i` relies on half-closing.
        self.sock = stream.socket.dup()
        self.sock.setblocking(False)
        self.early = b""
        while True:
            read = asyncio.ensure_future(stream.read_bytes(1 << 20, partial=True))  # tornado's is a future already
            if not read.done() or read.exception():
                break
            self.early += read.result()
        stream.close()

    async def receive(self) -> bytes:
        """Bytes from the client; empty at its end."""
        if self.early:
            early, self.early = self.early, b""
            return early
        try:
            return await asyncio.get_running_loop().sock_recv(self.sock, 64 * 1024)
        except OSError:
            return b""

    async def send(self, data: bytes) -> None:
        """Send all bytes.

        :raise OSError: the client is gone.
        """
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def end(self) -> None:
        """Say that nothing more comes, and close once the client has closed, or after a moment."""
        with contextlib.suppress(OSError, TimeoutError):
            self.sock.shutdown(socket.SHUT_WR)
            # A Unix socket closed with input unread resets the connection, which clients report as an error.
            async with asyncio.timeout(_LINGER_S):
                while await self.receive():
                    pass
        self.sock.close()


class Call:
    """One request on its way to an answer.

    ``params`` are the values of the route's names, ``query`` the last value of each query argument.
    """

    def __init__(self, connection: HTTPConnection, line: RequestStartLine, headers: HTTPHeaders) -> None:
        parts = urlsplit(line.path)
        self.method = line.method
        self.path = parts.path
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.headers = headers
        self.params: dict[str, str] = {}
        self.started = False
        self._connection = connection
        self._body: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._body_ended = False

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.path}>"

    @property
    def is_foreign(self) -> bool:
        """Whether it comes from a client that is not ours."""
        return not self.headers.get("User-Agent", "").startswith("hyper/")

    def flag(self, name: str) -> bool:
        """Whether a query argument is set, as Docker reads booleans."""
        return self.query.get(name, "").strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str, default: float) -> float:
        """A query argument as a number.

        :raise RequestError: it is none.
        """
        try:
            return float(self.query.get(name) or default)
        except ValueError as exc:
            raise RequestError(f"{name}={self.query[name]!r} is not a number") from exc

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; nothing more once it has ended."""
        while not self._body_ended:
            chunk = await self._body.get()
            if chunk:
                yield chunk
            else:
                self._body_ended = True

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; ``{}`` where there is none.

        :raise RequestError: it is too large or no JSON object.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > MAX_JSON:
                raise RequestError(f"the body is over the limit of {MAX_JSON} bytes")
        try:
            value = json.loads(body or b"{}")
        except (ValueError, RecursionError) as exc:
            raise RequestError(f"the body is not JSON: {exc}") from exc
        if not isinstance(value, dict | None):
            raise RequestError("the body is not a JSON object")
        return value or {}

    async def begin(self, status: int = 200, headers: dict[str, str] | None = None, first: bytes = b"") -> None:
        """Send the answer's head with its first bytes; :meth:`write` and the handler's end follow."""
        self.started = True
        line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        await self._connection.write_headers(line, HTTPHeaders({**_HEADERS, **(headers or {})}), first or None)

    async def write(self, data: bytes) -> None:
        """Send a piece of the answer; waits while the client is slow."""
        if data:
            await self._connection.write(data)

    async def write_json(self, value: Any) -> None:
        """Send a line of JSON."""
        await self.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")

    async def send(self, answer: Answer) -> None:
        """Send a whole answer."""
        body, headers = answer.body, dict(answer.headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, separators=(",", ":")).encode() + b"\n"
            headers.setdefault("Content-Type", "application/json")
        if answer.status not in (204, 304):
            headers.setdefault("Content-Length", str(len(body or b"")))
        has_body = body and self.method != "HEAD" and answer.status not in (204, 304)
        await self.begin(answer.status, headers, body if has_body else b"")

    async def hijack(self, *, multiplexed: bool) -> Hijacked:
        """Answer as Docker's attach does and take the connection over.

        With ``Upgrade`` in the request the answer is 101, else 200; see "Hijacking" in the Docker Engine API.
        """
        async for _ in self.chunks():
            pass
        kind = "application/vnd.docker.multiplexed-stream" if multiplexed else "application/vnd.docker.raw-stream"
        upgrade = "upgrade" in self.headers.get("Connection", "").lower()
        first = "101 UPGRADED" if upgrade else "200 OK"
        rows = [f"HTTP/1.1 {first}", f"Content-Type: {kind}"]
        rows += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else []
        rows += [f"{name}: {value}" for name, value in _HEADERS.items()]
        self.started = True
        stream: IOStream = self._connection.detach()  # type: ignore[attr-defined]  # HTTP1Connection's, see tornado
        await stream.write("\r\n".join([*rows, "", ""]).encode())
        return Hijacked(stream)

    def finish(self) -> None:
        """End the answer."""
        self._connection.finish()

    async def feed(self, chunk: bytes) -> None:
        """Called by tornado's reader with each piece of the body, and with empty bytes at its end."""
        await self._body.put(chunk)


class Server(HTTPServerConnectionDelegate):
    """Serves routes on a listening Unix socket.

    :param routes: what can be asked.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._http = _PeerCheckedServer(self, max_body_size=MAX_BODY)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Requests under way, and when the last one ended (loop time).
        self.busy = 0
        self.last_s = asyncio.get_running_loop().time()

    def listen(self, sock: socket.socket) -> None:
        """Serve a listening socket from here on."""
        self._http.add_socket(sock)

    async def close(self) -> None:
        """Take no more connections and cancel what is under way."""
        self._http.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called by tornado for each request."""
        return _Message(self, request_conn)

    def start(self, call: Call) -> asyncio.Task[None]:
        """Run a call in a task of its own."""
        self.busy += 1
        task = asyncio.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.busy -= 1
        self.last_s = asyncio.get_running_loop().time()

    async def _run(self, call: Call) -> None:
        log.debug("%r", call)
        try:
            answer = await self._dispatch(call)
            if answer is not None:
                await call.send(answer)
                call.finish()
        except HyperError as exc:
            await self._fail(call, exc)
        except (StreamClosedError, ConnectionError):
            log.debug("%r: the client is gone", call)
        # A bug in one handler must not end hyperd: it is logged with its trace and answered as such.
        except Exception as exc:
            log.exception("%r failed", call)
            await self._fail(call, InternalError(f"hyperd failed: {exc!r}", hint="see: hyper daemon logs"))

    async def _dispatch(self, call: Call) -> Answer | None:
        path = strip_version(call.path)
        found = self._routes.find(call.method, path)
        if found is None and call.method == "HEAD":
            found = self._routes.find("GET", path)
        if found is None:
            raise NotFoundError(f"page not found: {call.method} {path}", hint="see the list of routes in the manual")
        handler, params = found
        call.params = {name: unquote(value) for name, value in params.items()}  # only now: a name may hold a slash
        answer: Awaitable[Answer | None] = handler(call)
        return await answer

    async def _fail(self, call: Call, error: HyperError) -> None:
        if call.started:
            log.warning("%r failed after its answer began: %s", call, error)
            return
        with contextlib.suppress(StreamClosedError):
            body = as_json(error)
            if error.hint and call.is_foreign and not isinstance(error, NotFoundError | ConflictError):
                body["message"] += f": {error.hint}"  # Docker's clients show the message alone
            await call.send(Answer(status=error.http_status, body=body))
            call.finish()


class _PeerCheckedServer(HTTPServer):
    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Called by tornado for each new connection."""
        # SECURITY: the socket's mode already keeps other users out; the peer's uid is checked as well, so that a
        # descriptor that was passed on, or a folder whose mode was changed, does not hand hyperd to somebody else.
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", raw)
        if not is_allowed_peer(uid):
            log.warning("refused a connection of uid %d", uid)
            stream.close()
            return
        super().handle_stream(stream, address)


def is_allowed_peer(uid: int) -> bool:
    """Whether a user may talk to this hyperd: its own user and root."""
    return uid in (os.getuid(), 0)


class _Message(HTTPMessageDelegate):
    """tornado's view of one request."""

    def __init__(self, server: Server, connection: HTTPConnection) -> None:
        self._server = server
        self._connection = connection
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._last: asyncio.Future[None] | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Called by tornado when the head has come; the handler starts at once and reads the body as it comes."""
        assert isinstance(start_line, RequestStartLine)
        self._call = Call(self._connection, start_line, headers)
        self._task = self._server.start(self._call)
        self._connection.set_close_callback(self.on_connection_close)  # type: ignore[attr-defined]  # HTTP1Connection
        return None

    async def data_received(self, chunk: bytes) -> None:
        """Called by tornado with each piece of the body; waiting here stops it from reading on."""
        await self._feed(chunk)

    def finish(self) -> None:
        """Called by tornado when the body has ended."""
        self._last = asyncio.ensure_future(self._feed(b""))

    def on_connection_close(self) -> None:
        """Called by tornado when the client goes away before the answer's end."""
        if self._task is not None:
            self._task.cancel()

    async def _feed(self, chunk: bytes) -> None:
        """Hand bytes to the handler, unless it ends without wanting them."""
        assert self._call is not None
        assert self._task is not None
        feeding = asyncio.ensure_future(self._call.feed(chunk))
        await asyncio.wait([feeding, self._task], return_when=asyncio.FIRST_COMPLETED)
        feeding.cancel()
