"""What doors hold: typed calls to hyperd, which is started when it is needed. Synchronous; light to import."""

from hyper_kernel.client.client import Client
from hyper_kernel.client.start import ensure_daemon, stop_daemon
from hyper_kernel.client.stream import Exec, Stream
from hyper_kernel.sandbox.record import Record, State

__all__ = ["Client", "Exec", "Record", "State", "Stream", "ensure_daemon", "stop_daemon"]
