-- What opens one console once. Rows that have expired are removed when the next one is made.
CREATE TABLE console_token (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    instance_id TEXT NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('vnc', 'serial')),
    principal TEXT NOT NULL, -- who asked for it
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX console_token_instance ON console_token (instance_id);
CREATE INDEX console_token_expiry ON console_token (expires_at_ms);
