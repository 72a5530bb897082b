"""Commands about templates: saved machines that sandboxes start from."""

import asyncio
import sys
import time
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import AsJson, argument
from hyper_kernel.cli.tables import runs_text, show_json, show_table
from hyper_kernel.errors import NotFoundError
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB, parse_bytes
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox.plan import plan_shapes
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.sandbox.words import duration_text, size_text
from hyper_kernel.spec import DEFAULT_IMAGE
from hyper_kernel.template.bake import Report, bake_shape
from hyper_kernel.template.describe import describe, find_image
from hyper_kernel.template.store import Template, TemplateStore
from hyper_kernel.vsock.probe import open_end

app = typer.Typer(
    help="Templates: saved machines that sandboxes start from, instead of booting.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def complete_template(incomplete: str) -> list[str]:
    """Keys of templates."""
    keys = (one.key for one in TemplateStore(find_paths().templates).templates())
    return [key for key in keys if key.startswith(incomplete)]


Keys = Annotated[list[str], argument(complete_template, "Templates: their keys, or how these start.")]


@app.command("ls")
def list_templates(as_json: AsJson = False) -> None:
    """List templates, the one that was used last first."""
    paths = find_paths()
    found, images = TemplateStore(paths.templates).templates(), ImageStore(paths.images).images()
    if as_json:
        show_json(
            [
                {"key": one.key, "image": find_image(one, images), "memory_bytes": one.memory_bytes, **one.facts}
                for one in found
            ]
        )
        return
    rows = [
        [
            one.key[:12],
            find_image(one, images) or "(removed)",
            runs_text(one.facts["kernel"]),
            f"{one.facts['memory_mib']} MiB",
            str(one.facts["cpus"]),
            one.facts["tier"],
            size_text(one.memory_bytes),
            f"{duration_text(time.time() - one.used_s)} ago",
        ]
        for one in found
    ]
    show_table(("TEMPLATE", "IMAGE", "RUNS", "MACHINE", "CPUS", "ISOLATION", "SIZE", "USED"), rows)


@app.command()
def inspect(keys: Keys) -> None:
    """Print all that is known of templates, as JSON."""
    paths = find_paths()
    images = ImageStore(paths.images).images()
    show_json([describe(one, images) for key in keys for one in _find(TemplateStore(paths.templates), key)])


@app.command()
def bake(
    image: Annotated[str, typer.Argument(help="The image its machines have.")] = DEFAULT_IMAGE,
    memory: Annotated[str, typer.Option("--memory", "-m", help="Their memory, like 512m.")] = f"{DEFAULT_MEMORY_MIB}m",
    cpus: Annotated[int, typer.Option("--cpus", help="Their processors.")] = DEFAULT_CPUS,
) -> None:
    """Bake the templates for an image and a size that are not there yet; print the key of each.

    One is for programs; where the image has a Jupyter kernel that can be cloned, another has it running.
    """
    paths = find_paths()
    found = ImageStore(paths.images).get(image)
    for baked in asyncio.run(
        bake_for(paths, found, parse_bytes(memory) >> 20, cpus, lambda what: print(f"{what} ...", file=sys.stderr))
    ):
        print(baked.key[:12])


@app.command("rm")
def remove(keys: Keys) -> None:
    """Remove templates; sandboxes that were started from them live on."""
    store = TemplateStore(find_paths().templates)
    for key in keys:
        for one in _find(store, key):
            store.remove(one.key)
            print(one.key[:12])


def _find(store: TemplateStore, key: str) -> list[Template]:
    """The templates whose keys start so.

    :raise NotFoundError: there is none.
    """
    if found := [one for one in store.templates() if one.key.startswith(key)]:
        return found
    raise NotFoundError(f"there is no template {key}", hint="see: hyper template ls")


async def bake_for(paths: Paths, image: Image, memory_mib: int, cpus: int, report: Report) -> list[Template]:
    """The templates for an image and a size, baked now where they are missing.

    :raise HyperError: the machine does not start, or is of a size that does not boot.
    """
    boots, store = ColdSource(Qemu(), open_end), TemplateStore(paths.templates)
    shapes = plan_shapes(ImageStore(paths.images), image, memory_mib=memory_mib, cpus=cpus)
    return [await bake_shape(paths, shape, boots, store, report) for shape in shapes]
