-- The cluster itself, and what every batch may lean on.

CREATE TABLE schema_migration (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT;

-- A guard row: inserting anything but 1 rolls the whole batch back. Always empty between batches.
-- The name of the CHECK is how its refusal is told from all others.
CREATE TABLE txn_guard (
    ok INTEGER NOT NULL CONSTRAINT txn_guard CHECK (ok = 1)
) STRICT;

-- epoch rises when a backup is restored: with a fence it orders commands across that break.
CREATE TABLE cluster (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    id TEXT NOT NULL CHECK (length(id) = 24),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    created_at_ms INTEGER NOT NULL
) STRICT;
