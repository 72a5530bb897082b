"""Requests to hyperd, which is started where it is needed."""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException, HTTPResponse
from threading import Lock
from typing import Any

from hyper_kernel import __version__
from hyper_kernel.client.http import (
    ABSENT,
    TIMEOUT_S,
    UnixConnection,
    is_multiplexed,
    lost_error,
    make_url,
    send_request,
)
from hyper_kernel.client.start import ensure_daemon, find_version
from hyper_kernel.client.stream import Stream
from hyper_kernel.errors import HostError
from hyper_kernel.paths import Paths, find_paths

_IDEMPOTENT = frozenset({"GET", "HEAD", "DELETE"})


class Calls:
    """What every call of :class:`Client` goes through.

    :param start: whether hyperd is started (or replaced, when it is of another version) where needed.
    """

    def __init__(self, paths: Paths | None = None, *, start: bool = True) -> None:
        self.paths = paths or find_paths()
        self._start = start
        self._checked = not start
        self._checking = Lock()

    def _json(self, method: str, path: str, query: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        value: dict[str, Any] = self._value(method, path, query, **options)
        return value

    def _value(self, method: str, path: str, query: dict[str, Any] | None = None, **options: Any) -> Any:
        with self._open(method, path, query, **options) as response:
            try:
                return json.loads(response.read())
            except (HTTPException, ConnectionError) as exc:
                raise lost_error(method, path) from exc

    def _do(self, method: str, path: str, query: dict[str, Any] | None = None, **options: Any) -> int:
        """The status of an answer whose body does not matter."""
        with self._open(method, path, query, **options) as response:
            return response.status

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        *,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = TIMEOUT_S,
        again: bool = False,
    ) -> Iterator[HTTPResponse]:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection, response = self._request(method, make_url(path, query), data, headers, timeout_s, again=again)
        with closing(connection):
            yield response

    def _hijack(self, path: str, query: dict[str, Any], body: dict[str, Any] | None = None) -> Stream:
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        connection, response = self._request("POST", make_url(path, query), data, headers, TIMEOUT_S)
        multiplexed = is_multiplexed(response)
        file = response.fp
        response.fp = None  # type: ignore[assignment]  # else the response closes it when it is collected
        connection.sock.settimeout(None)
        return Stream(connection.sock, file, multiplexed=multiplexed)

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
        timeout_s: float | None,
        *,
        again: bool = False,
    ) -> tuple[UnixConnection, HTTPResponse]:
        """One request; where hyperd is absent it is started, and what may safely be asked twice is."""
        self._check_version()
        for attempt in (1, 2):
            connection = UnixConnection(self.paths.socket, timeout_s)
            try:
                return connection, send_request(connection, method, path, body, headers)
            except ABSENT as exc:
                connection.close()
                self._call_daemon(attempt, exc)
            except ConnectionError as exc:
                connection.close()
                if not (method in _IDEMPOTENT or again):
                    raise lost_error(method, path) from exc
                self._call_daemon(attempt, exc)
            except BaseException:
                connection.close()
                raise
        raise AssertionError("two attempts end in an answer or an error")

    def _call_daemon(self, attempt: int, cause: OSError) -> None:
        if attempt == 2 or not self._start:
            raise HostError(
                f"cannot reach hyperd at {self.paths.socket}: {cause}", hint="run: hyper daemon start"
            ) from cause
        ensure_daemon(self.paths)

    def _check_version(self) -> None:
        """Once per client: a hyperd of another version is replaced."""
        with self._checking:
            if self._checked:
                return
            theirs = find_version(self.paths)
            if theirs != __version__:
                ensure_daemon(self.paths)
            self._checked = True
