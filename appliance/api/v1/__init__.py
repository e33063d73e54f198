"""The contract's API: every route is one line of a table."""
