"""What is there on this host: hyperd, images, templates, policy."""

from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from hyper_kernel.errors import BusyError
from jupyter_ext import models
from jupyter_ext.handlers.base import HyperHandler, answers
from jupyter_ext.hyperd import Presence


class StatusHandler(HyperHandler):
    """``/status``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> dict[str, Any]:
        """hyperd in a few words; it is an answer that there is none."""
        found = await self.hyperd.find()
        if found.presence is not Presence.RUNNING:
            return models.status(found, {}, {})
        said = await self.hyperd.call(self.hyperd.reader.status)
        return models.status(found, said, await self.hyperd.call(self.hyperd.reader.policy))


class ImagesHandler(HyperHandler):
    """``/images``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> list[dict[str, Any]]:
        """Images that are here."""
        if not await self.hyperd.is_running():
            return []
        return [models.image(each) for each in await self.hyperd.call(self.hyperd.reader.images)]


class TemplatesHandler(HyperHandler):
    """``/templates``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> list[dict[str, Any]]:
        """What is parked or kept ready."""
        if not await self.hyperd.is_running():
            return []
        return [models.template(each) for each in await self.hyperd.call(self.hyperd.reader.pool)]


class PolicyHandler(HyperHandler):
    """``/policy``."""

    @authenticated
    @authorized
    @answers
    async def get(self) -> dict[str, Any]:
        """What hyperd allows."""
        if not await self.hyperd.is_running():
            raise BusyError("hyperd does not run, so nobody says what its policy is", hint="start a sandbox")
        return await self.hyperd.call(self.hyperd.reader.policy)
