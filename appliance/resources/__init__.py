"""One file per kind of object: its rules and the steps that make it real."""
