"""HTTP over hyperd's Unix socket, and its errors turned back into ours."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hyper_kernel import __version__, errors
from hyper_kernel.errors import HyperError, InternalError, LostError

#: How long an answer's beginning may take, in seconds, where the caller sets no limit of its own.
TIMEOUT_S = 60.0
#: What a connection raises when hyperd is not there (so that nothing was done).
ABSENT = (FileNotFoundError, ConnectionRefusedError)


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket.

    :param timeout_s: for each wait for bytes; None waits without end.
    """

    def __init__(self, path: Path, timeout_s: float | None = TIMEOUT_S) -> None:
        super().__init__("hyperd")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Called by http.client before a request.

        :raise OSError: hyperd does not listen.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(self._timeout_s)
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def send_request(
    connection: UnixConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    """Send a request and read the answer's head; the caller reads the rest and closes the connection.

    :raise FileNotFoundError, ConnectionRefusedError: hyperd is not there.
    :raise ConnectionError: it went away before it answered.
    :raise LostError: it did not answer in time.
    :raise HyperError: it answered with an error: the family it says.
    """
    wanted = {"User-Agent": f"hyper/{__version__}", **(headers or {})}
    # It may answer before it has read everything, and close: the answer says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body=body, headers=wanted, encode_chunked=not isinstance(body, bytes))
    try:
        response = connection.getresponse()
    except TimeoutError as exc:
        raise LostError(f"hyperd did not answer {method} {path} in time", hint="see: hyper daemon logs") from exc
    except http.client.HTTPException as exc:
        if isinstance(exc, http.client.RemoteDisconnected):
            raise
        raise ConnectionResetError(f"hyperd went away: {exc!r}") from exc
    if response.status >= 400:
        raise read_error(response)
    return response


def read_error(response: http.client.HTTPResponse) -> HyperError:
    """The error in an answer; that to a HEAD has no body, and is told by its status."""
    if response.status == 404 and response.length == 0:
        return errors.NotFoundError("not found")
    try:
        data: dict[str, Any] = json.loads(response.read(1 << 20))
        kind = getattr(errors, str(data.get("kind")), InternalError)
        family = kind if isinstance(kind, type) and issubclass(kind, HyperError) else InternalError
        return family(str(data["message"]), hint=str(data.get("hint") or ""))
    except (ValueError, KeyError, AttributeError, http.client.HTTPException):
        return InternalError(f"hyperd answered {response.status} {response.reason} without a message")


def read_lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of an answer, as they come.

    :raise LostError: hyperd went away.
    """
    try:
        yield from response
    except (http.client.HTTPException, ConnectionError) as exc:
        raise LostError("hyperd went away", hint="look with: hyper ps -a") from exc


def lost_error(method: str, path: str) -> LostError:
    """What to raise where hyperd went away in the middle of a call."""
    return LostError(f"hyperd went away before it answered {method} {path}", hint="look with: hyper ps -a")


def is_multiplexed(response: http.client.HTTPResponse) -> bool:
    """Whether an answer carries two outputs in one, as Docker does."""
    return "multiplexed" in (response.getheader("Content-Type") or "")


def quote_part(ref: str) -> str:
    """A reference as one part of a path."""
    return quote(ref, safe="") or "-"


def make_url(path: str, query: dict[str, Any] | None) -> str:
    """A path with a query, without arguments that are empty."""
    wanted = {name: value for name, value in (query or {}).items() if value != ""}
    return f"{path}?{urlencode(wanted)}" if wanted else path
