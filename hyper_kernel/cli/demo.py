"""``python -m hyper_kernel.cli.demo [NOTEBOOK]``: run a notebook in a sandbox, show it here, save it as HTML."""

import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from hyper_kernel.errors import HyperError

_FIRST = Path("notebooks/01-first-sandbox.ipynb")
_KERNEL = "hyper-python"
#: Software emulation is slow: what takes a laptop a second may take ten here.
_CELL_TIMEOUT_S = 300


def main() -> None:
    """Run the notebook named on the command line; exit with 1 when a cell fails."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _FIRST
    console = Console(highlight=False)
    try:
        notebook = run(path, console)
    except (CellExecutionError, DeadKernelError, RuntimeError, HyperError) as exc:
        console.print(Text.assemble(("hyper: ", "bold red"), str(exc)), soft_wrap=True)
        console.print("  →", getattr(exc, "hint", "") or "run: hyper doctor", soft_wrap=True)
        raise SystemExit(1) from exc
    page = Path("build") / f"{path.stem}.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0])
    console.print(f"Saved with its plots as [bold]{page}[/]. Next: [bold]make lab[/] opens JupyterLab.", soft_wrap=True)


def run(path: Path, console: Console) -> Any:
    """Execute a notebook cell by cell, showing each as it ends; the executed notebook.

    :raise CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    client = NotebookClient(
        notebook,
        kernel_name=_KERNEL,
        timeout=_CELL_TIMEOUT_S,
        startup_timeout=_CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent)}},
    )
    with console.status("starting a virtual machine") as status, client.setup_kernel():
        console.print(f"[green]A virtual machine answers after {time.monotonic() - started:.1f} s.[/]\n")
        status.update("running")
        for number, cell in enumerate(notebook.cells):
            _show_source(cell, console)
            client.execute_cell(cell, number)
            _show_outputs(cell, console)
    console.print(f"[green]Ran {path.name} in its own virtual machine in {time.monotonic() - started:.1f} s.[/]")
    return notebook


def _show_source(cell: Any, console: Console) -> None:
    if cell.cell_type == "markdown":
        console.print(Markdown(cell.source), "")
    else:
        code = Syntax(cell.source, "python", theme="ansi_dark", background_color="default", word_wrap=True)
        console.print(Padding(code, (0, 2)))


def _show_outputs(cell: Any, console: Console) -> None:
    for output in cell.get("outputs", []):
        console.print(Padding(Text(_plain(output), style="cyan"), (0, 4)))
    console.print()


def _plain(output: Any) -> str:
    """An output as text, for a terminal."""
    if output.output_type == "stream":
        return str(output.text).rstrip()
    if output.output_type == "error":
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
    data = output.data
    picture = "[a picture: see the saved page]" if "image/png" in data else ""
    return picture or str(data.get("text/plain", "")).rstrip()


if __name__ == "__main__":
    main()
