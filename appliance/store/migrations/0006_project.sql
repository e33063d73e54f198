-- Who uses the cloud: teams and projects, and what a project was given.

CREATE TABLE team (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE team_user (
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    PRIMARY KEY (team_id, user_id)
) STRICT;

CREATE INDEX team_user_user ON team_user (user_id);

CREATE TABLE project (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    domain TEXT NOT NULL,
    bootstrap_user TEXT NOT NULL,
    bootstrap_pubkey TEXT NOT NULL,
    tags TEXT NOT NULL CHECK (json_valid(tags)),
    metadatas TEXT NOT NULL CHECK (json_valid(metadatas)),
    prefix_length INTEGER NOT NULL CHECK (prefix_length BETWEEN 0 AND 32), -- of subnets it takes
    quota_vcpus INTEGER NOT NULL CHECK (quota_vcpus >= 0), -- 0 is unlimited
    quota_memory INTEGER NOT NULL CHECK (quota_memory >= 0),
    quota_storage INTEGER NOT NULL CHECK (quota_storage >= 0),
    quota_instances INTEGER NOT NULL CHECK (quota_instances >= 0),
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT; -- root_password is the secret ("project/ID", "root_password")

CREATE TABLE project_team (
    project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL REFERENCES team (id), -- a team that a project names cannot be removed
    PRIMARY KEY (project_id, team_id)
) STRICT;

CREATE INDEX project_team_team ON project_team (team_id);

-- A project takes one private subnet of each of its regions; nobody else gets it meanwhile.
CREATE TABLE project_region (
    project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    region_id TEXT NOT NULL REFERENCES region (id),
    subnet_id TEXT NOT NULL UNIQUE REFERENCES subnet (id),
    PRIMARY KEY (project_id, region_id)
) STRICT;

CREATE INDEX project_region_region ON project_region (region_id);

-- VRRP ids (RFC 5798: 1 to 255) are unique on a segment, which is a vnet.
CREATE TABLE vrrp_id (
    vnet_id TEXT NOT NULL REFERENCES vnet (id),
    vrrp_id INTEGER NOT NULL CHECK (vrrp_id BETWEEN 1 AND 255),
    project_id TEXT NOT NULL REFERENCES project (id),
    owner TEXT NOT NULL, -- target of what uses it
    PRIMARY KEY (vnet_id, vrrp_id)
) STRICT;

CREATE INDEX vrrp_id_project ON vrrp_id (project_id);
