"""Fixtures of the integration tests, for attacks on real sandboxes."""

from tests.integration.conftest import client, home, shared_data

__all__ = ["client", "home", "shared_data"]
