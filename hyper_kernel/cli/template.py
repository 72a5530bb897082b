"""Commands about templates: saved machines that sandboxes start from."""

import asyncio
from typing import Annotated, Protocol

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.errors import NotFoundError
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB, check_machine, parse_bytes
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_boot
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.sandbox.words import size_text
from hyper_kernel.spec import DEFAULT_IMAGE
from hyper_kernel.template.bake import bake as bake_template
from hyper_kernel.template.store import Template, TemplateStore
from hyper_kernel.vsock.probe import open_end

app = typer.Typer(
    help="Templates: saved machines that sandboxes start from, instead of booting.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Report(Protocol):
    """Told what is going on."""

    def __call__(self, what: str) -> None:
        """Show it."""


@app.command("ls")
def list_templates(as_json: AsJson = False) -> None:
    """List templates."""
    found = TemplateStore(find_paths().templates).templates()
    if as_json:
        show_json([{"key": one.key, "memory_bytes": one.memory_bytes, **one.facts} for one in found])
        return
    rows = [
        [
            one.key[:12],
            f"{one.facts['memory_mib']} MiB",
            str(one.facts["cpus"]),
            one.facts["tier"],
            size_text(one.memory_bytes),
        ]
        for one in found
    ]
    show_table(("TEMPLATE", "MACHINE", "CPUS", "ISOLATION", "SIZE"), rows)


@app.command()
def bake(
    image: Annotated[str, typer.Argument(help="The image its machines have.")] = DEFAULT_IMAGE,
    memory: Annotated[str, typer.Option("--memory", "-m", help="Their memory, like 512m.")] = f"{DEFAULT_MEMORY_MIB}m",
    cpus: Annotated[int, typer.Option("--cpus", help="Their processors.")] = DEFAULT_CPUS,
) -> None:
    """Bake a template, where there is none for such machines yet; print its key."""
    paths = find_paths()
    found = ImageStore(paths.images).get(image)
    baked = asyncio.run(bake_for(paths, found, parse_bytes(memory) >> 20, cpus, lambda what: print(f"{what} ...")))
    print(baked.key[:12])


@app.command("rm")
def remove(keys: Annotated[list[str], typer.Argument(help="Their keys, or how these start.")]) -> None:
    """Remove templates; sandboxes that were started from them live on."""
    store = TemplateStore(find_paths().templates)
    for key in keys:
        meant = [one.key for one in store.templates() if one.key.startswith(key)]
        if not meant:
            raise NotFoundError(f"there is no template {key}", hint="see: hyper template ls")
        for one in meant:
            store.remove(one)
            print(one[:12])


async def bake_for(paths: Paths, image: Image, memory_mib: int, cpus: int, report: Report) -> Template:
    """The template for machines of an image and a size, baked now where it is missing.

    :raise HyperError: the machine does not start, or is of a size that does not boot.
    """
    check_machine(memory_mib, cpus)
    config = await plan_boot(paths, image, memory_mib=memory_mib, cpus=cpus, name="template")
    boots = ColdSource(Qemu(), open_end)
    return await bake_template(
        boots, TemplateStore(paths.templates), config, on_boot=lambda: report("booting a machine to save it")
    )
