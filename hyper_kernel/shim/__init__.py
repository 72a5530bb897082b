"""The shim: one process per sandbox, which owns its machine, streams, channels and limits."""
