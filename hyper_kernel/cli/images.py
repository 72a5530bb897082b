"""Commands about images."""

from typing import Annotated

import typer

from hyper_kernel.cli.arguments import AsJson, Image
from hyper_kernel.cli.sandboxes import age_text
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.client import Client
from hyper_kernel.sandbox.words import size_text


def images(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    as_json: AsJson = False,
) -> None:
    """List images."""
    found = Client().images()
    if as_json:
        show_json(found)
    elif quiet:
        for image in found:
            print(image["Id"].removeprefix("sha256:")[:12])
    else:
        rows = [
            [name, image["Id"].removeprefix("sha256:")[:12], age_text(image["Created"]), size_text(image["Size"])]
            for image in found
            for name in image["RepoTags"] or ["(no name)"]
        ]
        show_table(("IMAGE", "ID", "CREATED", "SIZE"), rows)


def rmi(image: Image) -> None:
    """Take a name from an image, and remove the image with its last name."""
    for gone in Client().remove_image(image):
        for what, name in gone.items():
            print(f"{what}: {name}")
