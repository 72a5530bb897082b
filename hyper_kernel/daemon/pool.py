"""Routes of ``/hyper/v1/pool``: clones that wait, started and warm, for sandboxes to come."""

from typing import Any, Protocol

from hyper_kernel.daemon.policy import Rules
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.server import Call
from hyper_kernel.daemon.shims import Shims
from hyper_kernel.shim.keep import Keep
from hyper_kernel.spec import SandboxSpec


class Pool(Shims, Protocol):
    """Shims of which some have a parked clone; see ``shim.pool``."""

    @property
    def is_kept(self) -> bool:
        """Whether somebody asked for clones to be ready, for which hyperd stays."""

    @property
    def parked(self) -> int:
        """How many clones can be claimed."""

    async def keep(self, keep: Keep) -> None:
        """Have so many clones ready from now on, also after a restart of hyperd; 0: only what demand asks for.

        :raise NotFoundError: clones are wanted, and there is no such image.
        :raise RequestError: they are wanted with a kernel, and the image has none that can be cloned.
        :raise HostError: the wish cannot be saved, or the image's disk cannot be made.
        """

    def describe(self) -> list[dict[str, Any]]:
        """What is parked, on its way, and aimed at.

        Each has ``image`` (a name where there is one), ``image_id``, ``memory_mib``, ``cpus`` and ``kernel`` (None: for
        programs), the numbers of clones ``parked``, ``warming``, ``target`` and ``kept`` (as somebody asked),
        ``doing``: what is going on while their template is baked, and ``problem``: why there are not as many, where
        something failed.
        """


class Parking:
    """Answers for the pool."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("GET", "/hyper/v1/pool", self.get)
        routes.add("POST", "/hyper/v1/pool", self.keep)

    async def get(self, call: Call) -> Answer:
        """GET /hyper/v1/pool."""
        return Answer(body={"pool": self._pool.describe()})

    async def keep(self, call: Call) -> Answer:
        """POST /hyper/v1/pool {count, image, memory_mib, cpus, programs}: all but the count have defaults."""
        keep = Keep.from_dict(self._rules.default() | await call.json())
        if keep.count:  # a wish can be taken back whatever the policy says now
            self._rules.admit(SandboxSpec(image=keep.image, memory_mib=keep.memory_mib, cpus=keep.cpus))
        await self._pool.keep(keep)
        return Answer(body={"pool": self._pool.describe()})
