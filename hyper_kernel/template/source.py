"""Guests that start from a template."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from hyper_kernel.errors import HyperError
from hyper_kernel.hypervisor import MachineConfig
from hyper_kernel.sandbox.source import ColdSource, Guest, OnEvent
from hyper_kernel.template.store import Template, TemplateStore, template_facts, template_key

log = logging.getLogger(__name__)


class TemplateSource:
    """Starts clones of a template where there is one that fits; else, and when that fails, boots from power-on.

    :param boots: starts the machines.
    :param store: has the templates.
    """

    def __init__(self, boots: ColdSource, store: TemplateStore) -> None:
        self._boots = boots
        self._store = store

    @asynccontextmanager
    async def start(
        self, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None = None
    ) -> AsyncIterator[Guest]:
        """See :class:`hyper_kernel.sandbox.source.Source`."""
        async with AsyncExitStack() as stack:
            try:
                guest = await self._clone(stack, config, folder, on_event, kernel)
            except HyperError as exc:
                log.warning("no clone, booting instead: %s", exc)
                guest = None
            if guest is None:
                guest = await stack.enter_async_context(self._boots.start(config, folder, on_event))
            yield guest

    async def _clone(
        self, stack: AsyncExitStack, config: MachineConfig, folder: Path, on_event: OnEvent, kernel: str | None
    ) -> Guest | None:
        template = find_template(self._store, config, self._boots.hypervisor.build(), kernel)
        if template is None:
            log.info("there is no template for such a machine; hyper template bake makes one")
            return None
        with self._store.load(template) as ram:  # QEMU has it open by the time it is closed here
            guest = await stack.enter_async_context(self._boots.start(config, folder, on_event, ram=ram))
        return replace(guest, kernel_key=template.kernel_key)


def find_template(store: TemplateStore, config: MachineConfig, hypervisor: str, kernel: str | None) -> Template | None:
    """The best template for such a machine: with its kernel where that is welcome, or without."""
    for running in dict.fromkeys((kernel, None)):
        if template := store.find(template_key(template_facts(config, hypervisor, running))):
            return template
    return None
