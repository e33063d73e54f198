"""Processes to command: those of the tests of a Kahuna."""

from tests.e2e.kahuna.conftest import place

__all__ = ["place"]
