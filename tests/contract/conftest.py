"""Fixtures of the fakes: ``fake_home`` and ``client``."""

from tests.fakes.fixtures import client, fake_home

__all__ = ["client", "fake_home"]
