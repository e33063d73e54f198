-- Who is who, and what must stay secret.

CREATE TABLE node (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    signing_key TEXT NOT NULL UNIQUE, -- Ed25519 public key, raw, base64
    sealing_key TEXT NOT NULL UNIQUE, -- X25519 public key, raw, base64: data keys are wrapped to it
    created_at_ms INTEGER NOT NULL
) STRICT;

-- A data key itself is a 0600 file on each member, never a row.
CREATE TABLE data_key (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    state TEXT NOT NULL CHECK (state IN ('active', 'retiring')),
    created_at_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX data_key_active ON data_key (state) WHERE state = 'active';

-- A member that finds one of these among its files deletes it. An id that is in neither table is a
-- key whose making was interrupted, and is kept.
CREATE TABLE data_key_retired (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    retired_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE data_key_wrap (
    data_key_id TEXT NOT NULL REFERENCES data_key (id) ON DELETE CASCADE,
    node_id TEXT NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    wrapped TEXT NOT NULL, -- HPKE to the node's sealing key, base64
    PRIMARY KEY (data_key_id, node_id)
) STRICT;

CREATE TABLE secret (
    owner TEXT NOT NULL, -- a target, "agent/0123..", or "cluster"
    name TEXT NOT NULL,
    data_key_id TEXT NOT NULL REFERENCES data_key (id), -- a key in use cannot be forgotten
    sealed TEXT NOT NULL, -- AES-256-GCM, nonce first, base64; owner and name are authenticated
    PRIMARY KEY (owner, name)
) STRICT;

CREATE INDEX secret_data_key ON secret (data_key_id);

CREATE TABLE certificate_authority (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    certificate TEXT NOT NULL, -- PEM; the key is the secret ("certificate_authority/ID", "key")
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    created_at_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX certificate_authority_active ON certificate_authority (active) WHERE active = 1;

CREATE TABLE user (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE, -- people log in with it
    role TEXT NOT NULL CHECK (role IN ('superAdmin', 'projectAdmin', 'user')),
    notifications INTEGER NOT NULL CHECK (notifications IN (0, 1)),
    password TEXT, -- Argon2id in PHC string format; NULL: none yet, no log-in
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

-- A log-in: the bearer token that names it is good while the row is there.
CREATE TABLE user_session (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    expires_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX user_session_user ON user_session (user_id);
CREATE INDEX user_session_expiry ON user_session (expires_at_ms);

CREATE TABLE api_key (
    principal TEXT PRIMARY KEY, -- "master" or "user/ID": one key each
    user_id TEXT UNIQUE REFERENCES user (id) ON DELETE CASCADE,
    sha256 TEXT UNIQUE CHECK (length(sha256) = 64), -- NULL: disabled, and stays so over restarts
    expires_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    CHECK (principal = iif(user_id IS NULL, 'master', 'user/' || user_id))
) STRICT;

CREATE TABLE agent (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('Kiwi', 'Kaktus', 'Kontroller')),
    credential TEXT NOT NULL CHECK (credential IN ('none', 'hmac', 'ed25519')),
    public_key TEXT UNIQUE, -- Ed25519, raw, base64
    -- Rises with each new credential and each revocation; a session of a lower one is closed.
    credential_serial INTEGER NOT NULL CHECK (credential_serial >= 0),
    expires_at_ms INTEGER,
    generation INTEGER NOT NULL DEFAULT 1, -- rises when name or description change
    created_at_ms INTEGER NOT NULL,
    CHECK ((credential = 'ed25519') = (public_key IS NOT NULL))
) STRICT;

-- What an agent may speak about. Later resources widen this view by their own migrations.
CREATE VIEW agent_target (agent_id, target) AS
SELECT id, 'agent/' || id FROM agent;
