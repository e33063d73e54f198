"""Composition roots, one per role: they wire the layers below and hold no logic."""
