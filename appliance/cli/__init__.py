"""The command line: a client of the API and of the node file."""
