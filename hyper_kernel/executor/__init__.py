"""Functions in sandboxes: an executor as ``concurrent.futures`` has them, and a map over many values."""

from hyper_kernel.executor.executor import HyperExecutor
from hyper_kernel.executor.future import HyperFuture, Timeline
from hyper_kernel.executor.mapping import map
from hyper_kernel.executor.remote import RemoteError, RemoteTraceback, SandboxDied

__all__ = ["HyperExecutor", "HyperFuture", "RemoteError", "RemoteTraceback", "SandboxDied", "Timeline", "map"]
