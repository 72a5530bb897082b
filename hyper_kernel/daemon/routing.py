"""From a method and a path to the function that answers."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyper_kernel.errors import RequestError

if TYPE_CHECKING:
    from hyper_kernel.daemon.server import Call

#: The range of Docker API versions that is spoken; clients put one before the path, or none.
API_VERSION = "1.47"
MIN_API_VERSION = "1.24"
_VERSION = re.compile(r"/v(\d+)\.(\d+)(?=/)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer: ``body`` is sent as JSON, or as it is where it is bytes; None sends no body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


#: Answers a call; None says that it has written the answer itself.
Handler = Callable[["Call"], Awaitable[Answer | None]]


class Routes:
    """A table of templates such as ``/containers/{id}/json``; ``{name:path}`` matches slashes too."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, template: str, handler: Handler) -> None:
        """Add a row; earlier rows win."""
        pattern = re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", template)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        self._rows.append((method, re.compile(pattern), handler))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        """The handler of a path without its version, and the values of its template's names."""
        for row_method, pattern, handler in self._rows:
            if row_method == method and (match := pattern.fullmatch(path)):
                return handler, match.groupdict()
        return None


def strip_version(path: str) -> str:
    """The path without a Docker API version before it.

    :raise RequestError: a version outside what is spoken, in Docker's words.
    """
    match = _VERSION.match(path)
    if not match:
        return path
    asked = int(match[1]), int(match[2])
    if asked < _pair(MIN_API_VERSION):
        raise RequestError(
            f"client version {match[1]}.{match[2]} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version"
        )
    if asked > _pair(API_VERSION):
        raise RequestError(
            f"client version {match[1]}.{match[2]} is too new. Maximum supported API version is {API_VERSION}"
        )
    return path[match.end() :]


def _pair(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
