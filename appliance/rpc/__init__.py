"""The protocol between Kahuna and its agents, symmetrical."""
