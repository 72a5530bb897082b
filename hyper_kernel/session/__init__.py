"""A Jupyter kernel in a sandbox as code on this host drives it: cells, what they show, and values in and out."""

from hyper_kernel.session.session import EndedError, Session, Shows

__all__ = ["EndedError", "Session", "Shows"]
