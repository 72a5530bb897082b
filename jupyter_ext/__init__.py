"""Hyper Kernel in a Jupyter server: REST, events, metrics, terminals, and kernels found again after a restart."""

from typing import Any

from jupyter_ext.app import HyperKernelApp

__all__ = ["HyperKernelApp"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Called by a Jupyter server that has the extension enabled."""
    return [{"module": "jupyter_ext", "app": HyperKernelApp}]
