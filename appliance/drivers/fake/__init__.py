"""Simulated twins of the drivers: shipped, for `--simulate` and tests, never on a real node."""
