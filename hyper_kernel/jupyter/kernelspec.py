"""The kernelspec *Hyper Python*: install, find, remove."""

import json
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from hyper_kernel.errors import HostError, NotFoundError

NAME = "hyper-python"
_SOURCE = Path(__file__).parent / NAME


def install(*, user: bool = True, prefix: str | None = None) -> Path:
    """Install the kernelspec; return its folder. Safe to run again: the newest stays.

    :param user: for this user alone; else for all users of this machine or of ``prefix``.
    :param prefix: an environment, as ``sys.prefix``.
    :raise HostError: the folder cannot be written.
    """
    try:
        folder = KernelSpecManager().install_kernel_spec(
            str(_SOURCE), NAME, user=user and prefix is None, prefix=prefix
        )
    except OSError as exc:
        raise HostError(f"cannot install the kernelspec: {exc}", hint="use --user") from exc
    return Path(folder)


def find() -> dict[str, dict[str, Any]]:
    """The installed kernelspecs that run in sandboxes: name to ``kernel.json``, with ``resource_dir`` added."""
    found = {}
    for name, folder in KernelSpecManager().find_kernel_specs().items():
        spec = json.loads((Path(folder) / "kernel.json").read_text())
        provisioner = spec.get("metadata", {}).get("kernel_provisioner", {})
        if provisioner.get("provisioner_name") == "hyper-provisioner":
            found[name] = {**spec, "resource_dir": folder}
    return found


def remove(name: str = NAME) -> Path:
    """Remove an installed kernelspec; the folder it had.

    :raise NotFoundError: there is none of this name that runs in sandboxes.
    """
    if name not in find():
        raise NotFoundError(f"no kernelspec {name} runs in sandboxes", hint="see: hyper kernelspec list")
    try:
        return Path(KernelSpecManager().remove_kernel_spec(name))
    except (NoSuchKernel, OSError) as exc:
        raise HostError(f"cannot remove the kernelspec {name}: {exc}") from exc
