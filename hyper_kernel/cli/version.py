"""The command that says which versions work together."""

from hyper_kernel import __version__, wire
from hyper_kernel.cli.arguments import AsJson
from hyper_kernel.cli.tables import show_json
from hyper_kernel.client import Client
from hyper_kernel.client.start import find_version
from hyper_kernel.paths import find_paths


def version(as_json: AsJson = False) -> None:
    """Print the versions of this program, of hyperd, and of what they speak."""
    daemon = find_version(find_paths())
    api = Client(start=False).version()["ApiVersion"] if daemon else ""
    facts = {"hyper": __version__, "hyperd": daemon or "", "docker_api": api, "wire": wire.VERSION}
    if as_json:
        show_json(facts)
        return
    print(f"hyper       {__version__}")
    print(f"hyperd      {daemon or 'not running'}")
    print(f"Docker API  {api or '-'}")
    print(f"wire        {wire.VERSION}")
