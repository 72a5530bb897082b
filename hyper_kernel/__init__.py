"""Jupyter kernels and untrusted cells, each in its own virtual machine started from an OCI image."""

__version__ = "0.1.0"
