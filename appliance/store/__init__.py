"""State as SQL, sent in batches: one protocol, one suite, several implementations."""
