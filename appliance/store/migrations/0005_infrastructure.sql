-- What an administrator declares: places, machines, networks and storage.
-- Order of lists is the order of ids, which is the order of creation.

CREATE TABLE region (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    domain TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1, -- rises with each change
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE zone (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    region_id TEXT NOT NULL REFERENCES region (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    cpu_model TEXT, -- that x86_64 machines see; NULL: that of their host
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX zone_region ON zone (region_id);

-- Lets the tables below demand an agent of one type by a foreign key.
CREATE UNIQUE INDEX agent_type ON agent (id, type);

CREATE TABLE kiwi (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    region_id TEXT NOT NULL REFERENCES region (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX kiwi_region ON kiwi (region_id);

CREATE TABLE kiwi_agent (
    kiwi_id TEXT NOT NULL REFERENCES kiwi (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    agent_id TEXT NOT NULL UNIQUE, -- one machine, one node
    agent_type TEXT NOT NULL DEFAULT 'Kiwi' CHECK (agent_type = 'Kiwi'),
    PRIMARY KEY (kiwi_id, position),
    FOREIGN KEY (agent_id, agent_type) REFERENCES agent (id, type)
) STRICT;

-- A price is a decimal text, exact; its currency is a text of the owner's choice.
CREATE TABLE kaktus (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    zone_id TEXT NOT NULL REFERENCES zone (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    cpu_price TEXT NOT NULL,
    cpu_currency TEXT NOT NULL,
    memory_price TEXT NOT NULL,
    memory_currency TEXT NOT NULL,
    overcommit_cpu_ratio INTEGER NOT NULL CHECK (overcommit_cpu_ratio >= 1),
    overcommit_memory_ratio INTEGER NOT NULL CHECK (overcommit_memory_ratio >= 1),
    schedulable INTEGER NOT NULL DEFAULT 1 CHECK (schedulable IN (0, 1)),
    -- Observed by its agent; zero until the first report.
    cpu_arch TEXT NOT NULL DEFAULT '',
    cpu_vendor TEXT NOT NULL DEFAULT '',
    cpu_model TEXT NOT NULL DEFAULT '',
    cpu_models TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(cpu_models)), -- for its guests
    cpu_sockets INTEGER NOT NULL DEFAULT 0,
    cpu_cores INTEGER NOT NULL DEFAULT 0,
    cpu_threads INTEGER NOT NULL DEFAULT 0,
    memory_bytes INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX kaktus_zone ON kaktus (zone_id);

CREATE TABLE kaktus_agent (
    kaktus_id TEXT NOT NULL REFERENCES kaktus (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    agent_id TEXT NOT NULL UNIQUE,
    agent_type TEXT NOT NULL DEFAULT 'Kaktus' CHECK (agent_type = 'Kaktus'),
    PRIMARY KEY (kaktus_id, position),
    FOREIGN KEY (agent_id, agent_type) REFERENCES agent (id, type)
) STRICT, WITHOUT ROWID;

CREATE TABLE vnet (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    region_id TEXT NOT NULL REFERENCES region (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    vlan INTEGER NOT NULL CHECK (vlan BETWEEN 0 AND 4095),
    interface TEXT NOT NULL,
    private INTEGER NOT NULL CHECK (private IN (0, 1)),
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX vnet_region ON vnet (region_id);

-- Addresses are IPv4 as integers for arithmetic; the texts are given back as they were sent.
CREATE TABLE subnet (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    vnet_id TEXT NOT NULL REFERENCES vnet (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    cidr TEXT NOT NULL,
    gateway TEXT NOT NULL,
    dns TEXT NOT NULL,
    extra_routes TEXT NOT NULL CHECK (json_valid(extra_routes)), -- array of CIDR texts
    application TEXT NOT NULL CHECK (application IN ('user', 'ceph')),
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    prefix_length INTEGER NOT NULL CHECK (prefix_length BETWEEN 0 AND 32),
    first_usable INTEGER NOT NULL,
    last_usable INTEGER NOT NULL,
    gateway_address INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    CHECK (gateway_address BETWEEN first_usable AND last_usable)
) STRICT;

CREATE INDEX subnet_vnet ON subnet (vnet_id);
CREATE UNIQUE INDEX subnet_default ON subnet (vnet_id) WHERE is_default = 1;

CREATE TABLE subnet_range (
    subnet_id TEXT NOT NULL REFERENCES subnet (id) ON DELETE CASCADE,
    purpose TEXT NOT NULL CHECK (purpose IN ('reserved', 'gw_pool')),
    position INTEGER NOT NULL CHECK (position >= 0),
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (subnet_id, purpose, position),
    CHECK (first <= last)
) STRICT;

CREATE TABLE storage_pool (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    region_id TEXT NOT NULL REFERENCES region (id),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    pool TEXT NOT NULL,
    ceph_address TEXT NOT NULL, -- "local://<absolute directory>" is a directory on its one agent
    ceph_secret_uuid TEXT NOT NULL, -- names the key in libvirt; is not the key
    ceph_port INTEGER NOT NULL CHECK (ceph_port BETWEEN 0 AND 65535),
    price TEXT NOT NULL,
    currency TEXT NOT NULL,
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    -- Observed; zero until the first report.
    capacity_bytes INTEGER NOT NULL DEFAULT 0,
    available_bytes INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX storage_pool_region ON storage_pool (region_id);
CREATE UNIQUE INDEX storage_pool_default ON storage_pool (region_id) WHERE is_default = 1;

CREATE TABLE storage_pool_agent (
    storage_pool_id TEXT NOT NULL REFERENCES storage_pool (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    agent_id TEXT NOT NULL,
    agent_type TEXT NOT NULL DEFAULT 'Kaktus' CHECK (agent_type = 'Kaktus'),
    PRIMARY KEY (storage_pool_id, position),
    UNIQUE (storage_pool_id, agent_id),
    FOREIGN KEY (agent_id, agent_type) REFERENCES agent (id, type)
) STRICT;

CREATE INDEX storage_pool_agent_agent ON storage_pool_agent (agent_id);

CREATE TABLE template (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    storage_pool_id TEXT NOT NULL REFERENCES storage_pool (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    os TEXT NOT NULL CHECK (os IN ('linux', 'windows')),
    source TEXT NOT NULL,
    architecture TEXT NOT NULL DEFAULT 'x86_64' CHECK (architecture IN ('x86_64', 'aarch64')),
    firmware TEXT NOT NULL DEFAULT 'auto' CHECK (firmware IN ('auto', 'uefi', 'bios')),
    tpm TEXT NOT NULL DEFAULT 'auto' CHECK (tpm IN ('auto', 'on', 'off')),
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    size_bytes INTEGER NOT NULL DEFAULT 0, -- virtual size, known once imported
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'deleting')),
    problem TEXT CHECK (problem IS NULL OR json_valid(problem)), -- why it could not be deleted
    generation INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    UNIQUE (storage_pool_id, name)
) STRICT;

CREATE UNIQUE INDEX template_default ON template (storage_pool_id) WHERE is_default = 1;
