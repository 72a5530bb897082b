"""Arguments that many commands take, with what the shell completes them to."""

from typing import Annotated, Any

import typer

from hyper_kernel.client import Client
from hyper_kernel.errors import HyperError


def complete_live(incomplete: str) -> list[tuple[str, str]]:
    """Names of sandboxes that live."""
    return _complete_sandboxes(incomplete, everything=False)


def complete_any(incomplete: str) -> list[tuple[str, str]]:
    """Names of all sandboxes."""
    return _complete_sandboxes(incomplete, everything=True)


def complete_image(incomplete: str) -> list[tuple[str, str]]:
    """Names of images."""
    try:
        names = [name for image in _client().images() for name in image["RepoTags"]]
    except HyperError:
        return []
    return [(name, "") for name in names if name.startswith(incomplete)]


def _complete_sandboxes(incomplete: str, *, everything: bool) -> list[tuple[str, str]]:
    try:
        records = _client().sandboxes(everything=everything)
    except HyperError:
        return []
    return [(record.name, record.spec.image) for record in records if record.name.startswith(incomplete)]


def _client() -> Client:
    return Client(start=False)  # pressing the tab key starts nothing


def argument(completion: Any, help_text: str) -> Any:
    """A positional argument with completion."""
    return typer.Argument(help=help_text, autocompletion=completion, show_default=False)


Live = Annotated[str, argument(complete_live, "A sandbox: its name, its id, or the start of its id.")]
Any_ = Annotated[str, argument(complete_any, "A sandbox: its name, its id, or the start of its id.")]
LiveMany = Annotated[list[str], argument(complete_live, "Sandboxes: names or ids.")]
AnyMany = Annotated[list[str], argument(complete_any, "Sandboxes: names or ids.")]
Image = Annotated[str, argument(complete_image, "An image; list them with: hyper images")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
