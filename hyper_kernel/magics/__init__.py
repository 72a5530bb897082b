"""Doors of an ordinary notebook: ``%%hyper`` runs a cell in a sandbox, ``%hyper`` is the command line."""

from hyper_kernel.magics.extension import load, unload

__all__ = ["load", "unload"]
