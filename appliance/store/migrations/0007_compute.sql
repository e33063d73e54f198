-- Virtual machines and what they are made of. A row in phase "creating" counts (name, address, quota)
-- and is hidden from every list.

CREATE TABLE kompute (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    project_id TEXT NOT NULL REFERENCES project (id),
    zone_id TEXT NOT NULL REFERENCES zone (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'error', 'deleting')),
    problem TEXT CHECK (problem IS NULL OR json_valid(problem)), -- why it is not as it should be
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

-- Host names: two cases are one name in DNS.
CREATE UNIQUE INDEX kompute_name ON kompute (lower(name));
CREATE INDEX kompute_project ON kompute (project_id, zone_id);
CREATE INDEX kompute_zone ON kompute (zone_id);

CREATE TABLE instance (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    project_id TEXT NOT NULL REFERENCES project (id),
    kaktus_id TEXT NOT NULL REFERENCES kaktus (id),
    kompute_id TEXT UNIQUE REFERENCES kompute (id), -- the Kompute that owns it
    seed_pool_id TEXT NOT NULL REFERENCES storage_pool (id), -- where its cloud-init medium is, for good
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    vcpus INTEGER NOT NULL CHECK (vcpus > 0),
    power TEXT NOT NULL CHECK (power IN ('running', 'stopped', 'paused')), -- desired
    generation INTEGER NOT NULL DEFAULT 1, -- of what its domain shall be
    observed_generation INTEGER NOT NULL DEFAULT 0, -- of what its domain is
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'error', 'deleting')),
    problem TEXT CHECK (problem IS NULL OR json_valid(problem)),
    observed_state TEXT NOT NULL DEFAULT 'No State', -- the contract's state and reason texts
    observed_reason TEXT NOT NULL DEFAULT 'Unknown',
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX instance_name ON instance (lower(name));
CREATE INDEX instance_project ON instance (project_id, vcpus, memory_bytes); -- sums for quotas
CREATE INDEX instance_kaktus ON instance (kaktus_id);
CREATE INDEX instance_seed_pool ON instance (seed_pool_id);

-- What runs, or is about to run, on each host: kept by the triggers below, so never by a reader's sum.
CREATE TABLE kaktus_load (
    kaktus_id TEXT PRIMARY KEY REFERENCES kaktus (id) ON DELETE CASCADE,
    instances INTEGER NOT NULL CHECK (instances >= 0),
    vcpus INTEGER NOT NULL CHECK (vcpus >= 0),
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes >= 0)
) STRICT, WITHOUT ROWID; -- read with every host in each placement

CREATE TRIGGER kaktus_load_new AFTER INSERT ON kaktus BEGIN
    INSERT INTO kaktus_load (kaktus_id, instances, vcpus, memory_bytes) VALUES (NEW.id, 0, 0, 0);
END;

CREATE TRIGGER kaktus_load_insert AFTER INSERT ON instance BEGIN
    UPDATE kaktus_load SET instances = instances + 1, vcpus = vcpus + NEW.vcpus,
        memory_bytes = memory_bytes + NEW.memory_bytes
    WHERE kaktus_id = NEW.kaktus_id;
END;

CREATE TRIGGER kaktus_load_delete AFTER DELETE ON instance BEGIN
    UPDATE kaktus_load SET instances = instances - 1, vcpus = vcpus - OLD.vcpus,
        memory_bytes = memory_bytes - OLD.memory_bytes
    WHERE kaktus_id = OLD.kaktus_id;
END;

CREATE TRIGGER kaktus_load_update AFTER UPDATE OF kaktus_id, vcpus, memory_bytes ON instance BEGIN
    UPDATE kaktus_load SET instances = instances - 1, vcpus = vcpus - OLD.vcpus,
        memory_bytes = memory_bytes - OLD.memory_bytes
    WHERE kaktus_id = OLD.kaktus_id;
    UPDATE kaktus_load SET instances = instances + 1, vcpus = vcpus + NEW.vcpus,
        memory_bytes = memory_bytes + NEW.memory_bytes
    WHERE kaktus_id = NEW.kaktus_id;
END;

CREATE TABLE volume (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    project_id TEXT NOT NULL REFERENCES project (id),
    storage_pool_id TEXT NOT NULL REFERENCES storage_pool (id),
    kompute_id TEXT REFERENCES kompute (id),
    template_id TEXT REFERENCES template (id), -- its image is a clone: the template must stay
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('os', 'raw', 'iso')),
    size_bytes INTEGER NOT NULL CHECK (size_bytes > 0),
    instance_id TEXT REFERENCES instance (id), -- attached to at most one
    position INTEGER, -- order of the disks
    generation INTEGER NOT NULL DEFAULT 1,
    observed_generation INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'error', 'deleting')),
    problem TEXT CHECK (problem IS NULL OR json_valid(problem)),
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    CHECK ((type = 'os') = (template_id IS NOT NULL)),
    CHECK ((instance_id IS NULL) = (position IS NULL)),
    UNIQUE (instance_id, position)
) STRICT;

CREATE INDEX volume_project ON volume (project_id, size_bytes); -- sums for quotas
CREATE INDEX volume_storage_pool ON volume (storage_pool_id);
CREATE INDEX volume_kompute ON volume (kompute_id);
CREATE INDEX volume_template ON volume (template_id);

CREATE TABLE adapter (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    subnet_id TEXT NOT NULL REFERENCES subnet (id),
    kompute_id TEXT REFERENCES kompute (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    mac TEXT NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved IN (0, 1)), -- a reserved adapter may repeat a MAC
    instance_id TEXT REFERENCES instance (id),
    position INTEGER, -- order of the interfaces
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    CHECK ((instance_id IS NULL) = (position IS NULL)),
    UNIQUE (instance_id, position)
) STRICT;

CREATE UNIQUE INDEX adapter_mac ON adapter (lower(mac)) WHERE reserved = 0;
CREATE INDEX adapter_any_mac ON adapter (lower(mac)); -- one that is made avoids reserved ones too
CREATE INDEX adapter_subnet ON adapter (subnet_id);
CREATE INDEX adapter_kompute ON adapter (kompute_id);

CREATE TABLE adapter_address (
    subnet_id TEXT NOT NULL REFERENCES subnet (id),
    address INTEGER NOT NULL,
    adapter_id TEXT NOT NULL REFERENCES adapter (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    PRIMARY KEY (subnet_id, address), -- nobody shares an address
    UNIQUE (adapter_id, position)
) STRICT, WITHOUT ROWID;

-- How the machines of a project are spread over hosts; without a row: soft.
CREATE TABLE project_placement (
    project_id TEXT PRIMARY KEY REFERENCES project (id) ON DELETE CASCADE,
    spread TEXT NOT NULL CHECK (spread IN ('none', 'soft', 'hard'))
) STRICT;

-- A Kaktus may also speak about the guests on it, and about the templates that it imports.
DROP VIEW agent_target;
CREATE VIEW agent_target (agent_id, target) AS
SELECT id, 'agent/' || id FROM agent
UNION ALL
SELECT kaktus_agent.agent_id, 'instance/' || instance.id
FROM kaktus_agent JOIN instance ON instance.kaktus_id = kaktus_agent.kaktus_id
UNION ALL
SELECT storage_pool_agent.agent_id, 'template/' || template.id
FROM storage_pool_agent
JOIN template ON template.storage_pool_id = storage_pool_agent.storage_pool_id;

-- What belongs to which project: who may see and do what is decided by it.
CREATE VIEW project_object (object_id, project_id) AS
SELECT id, id FROM project
UNION ALL
SELECT id, project_id FROM kompute
UNION ALL
SELECT id, project_id FROM instance
UNION ALL
SELECT id, project_id FROM volume
UNION ALL
SELECT subnet_id, project_id FROM project_region
UNION ALL
SELECT adapter.id, project_region.project_id
FROM adapter JOIN project_region ON project_region.subnet_id = adapter.subnet_id
UNION ALL
SELECT adapter.id, instance.project_id FROM adapter JOIN instance ON instance.id = adapter.instance_id;

-- What a project may be given: never a subnet for storage, nor one in which a machine has an adapter.
CREATE VIEW free_private_subnet AS
SELECT subnet.id, subnet.prefix_length, subnet.vnet_id, vnet.region_id
FROM subnet JOIN vnet ON vnet.id = subnet.vnet_id
WHERE vnet.private = 1 AND subnet.application = 'user'
    AND NOT EXISTS (SELECT 1 FROM project_region WHERE project_region.subnet_id = subnet.id)
    AND NOT EXISTS (
        SELECT 1 FROM adapter WHERE adapter.subnet_id = subnet.id
            AND (adapter.instance_id IS NOT NULL OR adapter.kompute_id IS NOT NULL)
    );
