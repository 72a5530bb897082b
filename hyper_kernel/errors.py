"""The root of every error Hyper Kernel raises, and its families, sorted by what the caller can do.

::

    HyperError
    ├── RequestError    fix the request           (HTTP 400; NotFoundError 404, ConflictError 409)
    ├── DeniedError     policy says no            (403)
    ├── HostError       fix the machine           (500)
    ├── BusyError       retry later               (503)
    ├── GuestError      the guest failed          (502)
    ├── LostError       outcome unknown: look before you retry  (504)
    └── InternalError   our bug                   (500)

Narrower errors stand beside the code that raises them. A door prints ``str(error)`` and then ``error.hint``.
"""


class HyperError(Exception):
    """What failed and on what; ``hint`` says what to do next.

    :param message: one sentence, for people: what failed, on what.
    :param hint: one sentence or command: what to do next; empty where nothing is known.
    :cvar http_status: what a door that speaks HTTP answers it with.
    """

    http_status = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def family(self) -> str:
        """The name of the narrowest class of this module that it belongs to: what another process can know it by."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)


class RequestError(HyperError):
    """The request is wrong: fix it and ask again."""

    http_status = 400


class NotFoundError(RequestError):
    """What the request names does not exist."""

    http_status = 404


class ConflictError(RequestError):
    """The request does not fit the state of what it names (a name in use, a sandbox that is not running)."""

    http_status = 409


class DeniedError(HyperError):
    """Policy refuses; asking again will not help."""

    http_status = 403


class HostError(HyperError):
    """This machine lacks something or refuses something."""


class BusyError(HyperError):
    """Not now: retry later."""

    http_status = 503


class GuestError(HyperError):
    """The guest failed or broke the contract."""

    http_status = 502


class LostError(HyperError):
    """The outcome is unknown: look before you retry."""

    http_status = 504


class InternalError(HyperError):
    """A bug of Hyper Kernel."""
