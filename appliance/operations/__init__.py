"""Durable work: every multi-step change is a row that survives a crash."""
