"""Bake a template: boot a machine, and save it the moment its agent has said hello.

The agent has served nothing yet, so it knows nothing that clones must not share; and what the guest's kernel knows
(entropy, clock, names) is replaced by the resync that every guest gets before anything else.
"""

from collections.abc import Callable

from hyper_kernel.errors import InternalError
from hyper_kernel.host.memory import open_memory
from hyper_kernel.hypervisor import MachineConfig, Ram
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.template.store import Template, TemplateStore, template_facts, template_key


async def bake(
    boots: ColdSource, store: TemplateStore, config: MachineConfig, *, on_boot: Callable[[], None] = lambda: None
) -> Template:
    """The template for such machines: the one that is there, or baked now, which takes a boot.

    :param on_boot: called when it has to be baked.
    :raise HostError: the machine does not start, or the disk refuses; nothing is left then.
    :raise GuestError: its agent does not answer.
    """
    facts = template_facts(config, boots.hypervisor.build())
    key = template_key(facts)
    with store.baking(key) as folder:
        if folder:
            on_boot()
            with open_memory(config.memory_mib) as memory:
                async with boots.start(config, folder, lambda event: None, Ram(fd=memory)) as guest:
                    await guest.agent.close()
                    await guest.machine.unplug_vsock()
                    await guest.machine.save(folder / "state")
                return store.add(key, folder, memory, facts)
    template = store.find(key)
    if template is None:
        raise InternalError(f"template {key[:12]} was removed while it was asked for")
    return template
