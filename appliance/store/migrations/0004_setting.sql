-- What concerns the whole cluster, and what its owner should look at.

CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL CHECK (json_valid(value)), -- secrets are in `secret`, owner "cluster"
    updated_at_ms INTEGER NOT NULL,
    updated_by TEXT NOT NULL
) STRICT;

CREATE TABLE alarm (
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 1),
    first_at_ms INTEGER NOT NULL,
    last_at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, target)
) STRICT;
