"""Errors that only Docker's API knows, and the JSON that carries an error."""

from hyper_kernel.errors import ConflictError, HyperError, RequestError
from hyper_kernel.sandbox.words import printable


class NotHereError(RequestError):
    """The Docker API has this, Hyper Kernel does not (yet): refused rather than ignored."""

    http_status = 501


class AlreadyError(ConflictError):
    """A sandbox is already in the state that was asked for; Docker answers 304, which is no failure."""

    http_status = 304


def as_json(error: HyperError) -> dict[str, str]:
    """The body of an error's answer: ``message`` and ``hint`` for people, ``kind`` the family's class name."""
    # SECURITY: the message may quote a guest, and clients (docker's for one) write it to a terminal as it comes.
    return {"message": printable(str(error)), "hint": error.hint, "kind": error.family}
