"""Jupyter kernels and untrusted cells, each in its own virtual machine started from an OCI image.

In an ordinary notebook: ``%load_ext hyper_kernel`` for the magics ``%%hyper`` and ``%hyper``. In any program:
``hyper_kernel.map`` and ``hyper_kernel.HyperExecutor`` for functions in sandboxes.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# This module is the ground that all others stand on, so it must not import the doors at the top of the house, and what
# needs none of them should not load them: they are looked up by name when somebody asks.
_MAGICS = "hyper_kernel.magics"
_LAZY = {"map": "hyper_kernel.executor", "HyperExecutor": "hyper_kernel.executor"}


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython's ``%load_ext hyper_kernel``."""
    importlib.import_module(_MAGICS).load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Called by IPython's ``%unload_ext hyper_kernel``."""
    importlib.import_module(_MAGICS).unload(shell)


def __getattr__(name: str) -> Any:
    """Called by Python for a name that is not here."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
