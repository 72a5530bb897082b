"""Which HTTP status an error is answered with, and the JSON that carries it: the one table of both."""

from hyper_kernel import errors
from hyper_kernel.errors import ConflictError, HyperError, RequestError
from hyper_kernel.sandbox.words import printable


class NotHereError(RequestError):
    """The Docker API has this, Hyper Kernel does not (yet): refused rather than ignored."""


class AlreadyError(ConflictError):
    """A sandbox is already in the state that was asked for; Docker answers 304, which is no failure."""


#: From narrow to wide: the first class that fits decides.
STATUS: tuple[tuple[type[HyperError], int], ...] = (
    (AlreadyError, 304),
    (NotHereError, 501),
    (errors.NotFoundError, 404),
    (errors.ConflictError, 409),
    (errors.RequestError, 400),
    (errors.DeniedError, 403),
    (errors.BusyError, 503),
    (errors.GuestError, 502),
    (errors.LostError, 504),
    (errors.HostError, 500),
    (errors.InternalError, 500),
)


def find_status(error: HyperError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def as_json(error: HyperError) -> dict[str, str]:
    """The body of an error's answer: ``message`` and ``hint`` for people, ``kind`` the family's class name."""
    families = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    # SECURITY: the message may quote a guest, and clients (docker's for one) write it to a terminal as it comes.
    return {"message": printable(str(error)), "hint": error.hint, "kind": next(families)}
