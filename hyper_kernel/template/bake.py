"""Bake a template: boot a machine, let it get ready, and save it.

Nobody has used it: it knows nothing that clones must not share but what the resync replaces, which every guest, and
every kernel that was started in a template, gets before anything else (entropy, clock, names, random states).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyper_kernel.agent.agent import Agent, RefusedError
from hyper_kernel.errors import InternalError
from hyper_kernel.host.memory import open_memory
from hyper_kernel.hypervisor import MachineConfig, Ram
from hyper_kernel.limits import check_machine
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.kernel import WORK, new_key, prepare_kernel, resync_kernel
from hyper_kernel.sandbox.plan import Shape, plan_boot, plan_image
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.template.store import Template, TemplateStore, template_facts, template_key
from hyper_kernel.wire import Type

#: What nearly all programs in nearly all images need is in a template's memory then, not on its disk.
_FIRST_PROGRAMS = (["sh", "-c", ":"], ["python3", "-c", "pass"])

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BakedKernel:
    """A kernel to have running in a template: a kernelspec of the image, the image's part of resync, and its key."""

    name: str
    image: dict[str, Any]
    key: str = field(default_factory=new_key)


async def bake_shape(
    paths: Paths, shape: Shape, boots: ColdSource, store: TemplateStore, report: Report = lambda what: None
) -> Template:
    """The template for machines of a shape: see :func:`bake`.

    :raise HyperError: the image is gone, the machine does not start, or is of a size that does not boot.
    """
    check_machine(shape.memory_mib, shape.cpus)
    image = ImageStore(paths.images).get(shape.image_id)
    config = await plan_boot(paths, image, memory_mib=shape.memory_mib, cpus=shape.cpus, name="template")
    kernel = BakedKernel(shape.kernel, plan_image(image.config)) if shape.kernel is not None else None
    return await bake(boots, store, config, kernel=kernel, report=report)


async def bake(
    boots: ColdSource,
    store: TemplateStore,
    config: MachineConfig,
    *,
    kernel: BakedKernel | None = None,
    report: Report = lambda what: None,
) -> Template:
    """The template for such machines: the one that is there, or baked now, which takes a boot.

    :param kernel: the kernel that shall run in it.
    :param report: told what is going on while it is baked.
    :raise HostError: the machine does not start, or the disk refuses; nothing is left then.
    :raise GuestError: its agent or its kernel does not answer.
    """
    facts = template_facts(config, boots.hypervisor.build(), kernel.name if kernel else None)
    key = template_key(facts)
    with store.baking(key) as folder:
        if folder:
            report("booting a machine to save it")
            with open_memory(config.memory_mib) as memory:
                async with boots.start(config, folder, lambda event: None, ram=Ram(fd=memory)) as guest:
                    if kernel:
                        report("starting its kernel")
                        await _start_kernel(guest.agent, kernel)
                    else:
                        report("running its first programs")
                        await _run_programs(guest.agent)
                    await guest.agent.close()
                    await guest.machine.unplug_vsock()
                    await guest.machine.save(folder / "state")
                return store.add(key, folder, memory, facts, kernel.key if kernel else "")
    template = store.find(key)
    if template is None:
        raise InternalError(f"template {key[:12]} was removed while it was asked for")
    return template


async def _start_kernel(agent: Agent, kernel: BakedKernel) -> None:
    """Start a kernel and use it once, resync included: a kernel that does not take it is not baked."""
    await agent.resync(hostname="template", scratch_mib=0, image=kernel.image)
    await agent.request("kernel.start", name=kernel.name, key=kernel.key, arguments=[], env={}, cwd=WORK)
    await prepare_kernel(agent, kernel.key)
    await resync_kernel(agent, kernel.key, env={}, cwd=WORK)


async def _run_programs(agent: Agent) -> None:
    """Run a few programs; images that lack them are as welcome."""
    await agent.resync(hostname="template", scratch_mib=0, image={})
    for argv in _FIRST_PROGRAMS:
        with contextlib.suppress(RefusedError):
            stream = await agent.open("exec", argv=argv)
            async for kind, _ in stream:
                if kind is Type.EXIT:
                    break
            stream.close()
