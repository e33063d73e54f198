"""Use cases: authorise, check, write the row and its operation in one batch."""
