"""hyperd: one process per user that knows every sandbox, and serves the Docker Engine API and ``/hyper/v1``."""
