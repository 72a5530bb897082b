"""Wishes: what the next kernel of a notebook shall have."""

from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from hyper_kernel.errors import RequestError
from hyper_kernel.jupyter.wishes import Wish
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, Limits, SandboxSpec
from jupyter_ext import models
from jupyter_ext.handlers.base import HyperHandler, answers

_NAMES = {"path", "name", "image", "memory_mib", "cpus", "limits", "files", "output"}
_MAX_PATH = 4096


class WishesHandler(HyperHandler):
    """``/wishes``."""

    @authenticated
    @authorized
    @answers
    async def put(self) -> dict[str, Any]:
        """Note what is wished for a notebook, if policy lets it pass; what it comes to."""
        body = self.body(_NAMES)
        path, name = body.pop("path", None), body.pop("name", None)
        if not isinstance(path, str) or not 0 < len(path) <= _MAX_PATH or not isinstance(name, str | None):
            raise RequestError("the body has no path of a notebook", hint='send {"path": ..., ...}')
        wish = read_wish(body)
        given = await self.hyperd.call(self.hyperd.doer.admit, as_spec(wish))
        await self.app.wishes.put(path, name or path.rpartition("/")[2], wish)
        return models.granted(path, given)


def read_wish(body: dict[str, Any]) -> Wish:
    """A wish from a request's JSON.

    :raise RequestError: a value is of the wrong kind, or a limit is not known.
    """
    limits = body.get("limits", {})
    try:
        if not all(isinstance(body.get(name, ""), str) for name in ("image", "files", "output")):
            raise TypeError("image, files and output are strings")
        if not all(type(body.get(name, 0)) is int for name in ("memory_mib", "cpus")):
            raise TypeError("memory_mib and cpus are whole numbers")
        return Wish(**body | {"limits": Limits(**limits)})
    except TypeError as exc:
        raise RequestError(f"the wish cannot be read: {exc}", hint="see jupyter_ext/rest-api.yml") from exc


def as_spec(wish: Wish) -> SandboxSpec:
    """What hyperd is asked for where the kernelspec itself asks for nothing.

    :raise RequestError: a value is not known, or out of all bounds.
    """
    usual = KernelSpec()
    return SandboxSpec(
        image=wish.image or DEFAULT_IMAGE,
        memory_mib=wish.memory_mib,
        cpus=wish.cpus,
        limits=wish.limits,
        kernel=KernelSpec(files=wish.files or usual.files, output=wish.output or usual.output),
    )
