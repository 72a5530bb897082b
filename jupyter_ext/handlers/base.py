"""What all routes share: who may, how answers and errors are written."""

import functools
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError

from hyper_kernel import errors
from hyper_kernel.errors import HyperError, RequestError
from jupyter_ext.hyperd import Hyperd

if TYPE_CHECKING:
    from jupyter_ext.app import HyperKernelApp

#: A body that is longer is no request of ours, in bytes.
_MAX_BODY = 1 << 20


class HyperHandler(APIHandler):
    """A handler that speaks JSON and knows hyperd.

    SECURITY: every method of a subclass has ``@authenticated`` and ``@authorized``; a test looks at each.
    """

    auth_resource = "hyper"

    @property
    def app(self) -> "HyperKernelApp":
        """The extension."""
        app: HyperKernelApp = self.settings["jupyter_ext"]
        return app

    @property
    def hyperd(self) -> Hyperd:
        """Calls to hyperd."""
        return self.app.hyperd

    def body(self, allowed: set[str] | None = None) -> dict[str, Any]:
        """The request's JSON object.

        :param allowed: names it may have; None: any.
        :raise RequestError: it is none, or has others.
        """
        try:
            data = json.loads(self.request.body) if len(self.request.body) <= _MAX_BODY else None
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise RequestError("the body is not a JSON object", hint="see jupyter_ext/rest-api.yml")
        if allowed is not None and (unknown := sorted(set(data) - allowed)):
            raise RequestError(f"the body has unknown {', '.join(unknown)}", hint=f"it may have {', '.join(allowed)}")
        return data

    def whole_number(self, name: str, default: int, low: int, high: int) -> int:
        """An argument of the query.

        :raise RequestError: it is no number from ``low`` to ``high``.
        """
        text = self.get_query_argument(name, str(default))
        if not text.isascii() or not text.isdecimal() or not low <= int(text[:9]) <= high:
            raise RequestError(f"{name}={text[:40]!r} is not a number from {low} to {high}")
        return int(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by tornado where a method raised; the body is the ``Error`` of rest-api.yml."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        message = getattr(error, "log_message", None) or self._reason
        self.refuse(as_error(status_code, str(message)), status_code)

    def refuse(self, error: HyperError, status: int = 0) -> None:
        """Answer with an error.

        :param status: zero: the error's own.
        """
        self.set_status(status or error.http_status)
        self.finish({"message": str(error), "hint": error.hint, "kind": error.family})


def answers(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[None]]:
    """Decorates a handler's method: what it returns is the answer's JSON (None: no content), an error its error."""

    @functools.wraps(method)
    async def inner(self: HyperHandler, *args: str, **kwargs: str) -> None:
        try:
            value = await method(self, *args, **kwargs)
        except HyperError as exc:
            self.log.info("%s %s: %s", self.request.method, self.request.path, exc)
            self.refuse(exc)
            return
        if value is None:
            self.set_status(204)
            self.finish()
        else:
            self.finish(json.dumps(value))

    return inner


def as_error(status: int, message: str) -> HyperError:
    """The error that fits an answer of tornado's or the server's own."""
    families = {404: errors.NotFoundError, 409: errors.ConflictError, 403: errors.DeniedError, 503: errors.BusyError}
    kind = families.get(status, errors.RequestError if status < 500 else errors.InternalError)
    return kind(message, hint="the server's log says more" if status >= 500 else "")


def as_http(error: HyperError) -> HTTPError:
    """An error for those who only know tornado's: websockets that are refused."""
    return HTTPError(error.http_status, str(error).replace("%", "%%"))
