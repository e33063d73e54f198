"""Tools that know nothing about clouds: no import from any layer above."""
