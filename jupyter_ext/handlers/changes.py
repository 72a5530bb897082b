"""What a sandbox changed in its copy of the notebook's folder: looked at, and taken over."""

from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from hyper_kernel.errors import RequestError
from jupyter_ext import models
from jupyter_ext.handlers.base import answers
from jupyter_ext.handlers.sandboxes import SandboxHandler

_MAX_PATHS = 10_000


class ChangesHandler(SandboxHandler):
    """``/sandboxes/{id}/changes``."""

    @authenticated
    @authorized
    @answers
    async def get(self, ref: str) -> list[dict[str, Any]]:
        """All of them, as they are now, or as they were last looked at."""
        last = bool(self.whole_number("last", 0, 0, 1))
        record = await self.find(ref)
        review = await self.hyperd.call(self.hyperd.reader.review, record.id, last=last)
        return [models.change(each) for each in review["changes"]]


class ChangeHandler(SandboxHandler):
    """``/sandboxes/{id}/changes/{path}``."""

    @authenticated
    @authorized
    @answers
    async def get(self, ref: str, path: str) -> dict[str, Any]:
        """Both sides of one."""
        record = await self.find(ref)
        return models.comparison(await self.hyperd.call(self.hyperd.reader.change, record.id, path))


class ApplyHandler(SandboxHandler):
    """``/sandboxes/{id}/apply``."""

    @authenticated
    @authorized
    @answers
    async def post(self, ref: str) -> dict[str, Any]:
        """Take some of them over into the host's folder."""
        body = self.body({"paths", "force"})
        paths, force = read_paths(body.get("paths")), body.get("force", False)
        if not isinstance(force, bool):
            raise RequestError(f"force={force!r} is neither true nor false")
        record = await self.find(ref)
        return models.applied(await self.hyperd.call(self.hyperd.reader.apply, record.id, paths, force=force))


def read_paths(said: Any) -> list[str] | dict[str, str]:
    """Paths, or paths and the digests they were seen with, from a request's JSON.

    :raise RequestError: it has neither.
    """
    words = [*said, *said.values()] if isinstance(said, dict) else said
    if not isinstance(words, list) or not said or len(said) > _MAX_PATHS or not all(isinstance(w, str) for w in words):
        raise RequestError("paths is no list of paths, and no object of paths and digests", hint="name what to apply")
    return said if isinstance(said, dict) else words
