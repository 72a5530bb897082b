"""Commands about the kernelspecs that Jupyter shows."""

import sys
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json, show_table
from hyper_kernel.jupyter import kernelspec

app = typer.Typer(help="Install, list and remove Jupyter's kernelspec.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def install(
    sys_prefix: Annotated[bool, typer.Option("--sys-prefix", help="For this Python environment.")] = False,
    everybody: Annotated[bool, typer.Option("--system", help="For all users of this machine.")] = False,
) -> None:
    """Install it, for this user where nothing else is said."""
    print(kernelspec.install(user=not everybody, prefix=sys.prefix if sys_prefix else None))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List those that run in sandboxes."""
    found = kernelspec.find()
    if as_json:
        show_json(found)
    else:
        rows = [[name, spec["display_name"], spec["resource_dir"]] for name, spec in found.items()]
        show_table(("NAME", "SHOWN AS", "FOLDER"), rows)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Which.")] = kernelspec.NAME) -> None:
    """Remove one."""
    print(kernelspec.remove(name))
