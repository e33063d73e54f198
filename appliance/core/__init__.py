"""Tools that know nothing about clouds: standard library, msgspec, structlog and cryptography only."""
