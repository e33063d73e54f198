-- Durable operations. A target is a text "kind/id"; an operation locks each of its targets.

CREATE TABLE operation (
    id TEXT PRIMARY KEY CHECK (length(id) = 24),
    kind TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('user', 'reconcile', 'system')),
    principal TEXT NOT NULL,
    request_key TEXT, -- hash of principal, method, path, query and body: the same request attaches
    arguments TEXT NOT NULL CHECK (json_valid(arguments)),
    targets TEXT NOT NULL CHECK (json_valid(targets)), -- for the record: the locks go at the end
    state TEXT NOT NULL CHECK (state IN (
        'running', 'compensating', 'done', 'failed', 'cancelled', 'abandoned')),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    nudges INTEGER NOT NULL DEFAULT 0, -- rises with each "retry now": ends the worker's pause
    -- Who works on it. claim rises with each claim and guards every write of the worker;
    -- beat rises while the worker lives: observers watch (claim, beat) by their own clocks.
    claimed_by TEXT,
    claim INTEGER NOT NULL DEFAULT 1,
    beat INTEGER NOT NULL DEFAULT 0,
    needs_agent TEXT, -- set on release: only an engine with a socket to this agent should claim
    elapsed_ms INTEGER NOT NULL DEFAULT 0 CHECK (elapsed_ms >= 0), -- worked or waited, monotonic
    budget_ms INTEGER NOT NULL CHECK (budget_ms > 0),
    attempts INTEGER NOT NULL DEFAULT 0, -- failures so far, all steps together
    problem TEXT CHECK (problem IS NULL OR json_valid(problem)), -- the last error
    failure TEXT CHECK (failure IS NULL OR json_valid(failure)), -- why it is being undone
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    CHECK ((finished_at_ms IS NULL) = (state IN ('running', 'compensating'))),
    CHECK (finished_at_ms IS NULL OR claimed_by IS NULL)
) STRICT;

CREATE INDEX operation_unfinished ON operation (id) WHERE finished_at_ms IS NULL;
CREATE UNIQUE INDEX operation_request ON operation (request_key)
    WHERE finished_at_ms IS NULL AND request_key IS NOT NULL;
CREATE INDEX operation_finished ON operation (finished_at_ms) WHERE finished_at_ms IS NOT NULL;

CREATE TABLE operation_step (
    operation_id TEXT NOT NULL REFERENCES operation (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 0),
    name TEXT NOT NULL,
    output TEXT NOT NULL CHECK (json_valid(output)),
    done_at_ms INTEGER NOT NULL,
    PRIMARY KEY (operation_id, number)
) STRICT;

-- The highest fence given out for a target; outlives its operations, until it is pruned.
CREATE TABLE target_fence (
    target TEXT PRIMARY KEY,
    fence INTEGER NOT NULL CHECK (fence >= 1)
) STRICT;

-- No pruned fence was higher. A target without a row begins above it: its agent, which remembers,
-- would refuse one that began at 1 again.
CREATE TABLE fence_floor (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    fence INTEGER NOT NULL CHECK (fence >= 0)
) STRICT;

INSERT INTO fence_floor (singleton, fence) VALUES (1, 0);

CREATE TABLE operation_target (
    target TEXT PRIMARY KEY, -- one unfinished operation per target
    operation_id TEXT NOT NULL REFERENCES operation (id) ON DELETE CASCADE,
    fence INTEGER NOT NULL CHECK (fence >= 1)
) STRICT;

CREATE INDEX operation_target_operation ON operation_target (operation_id);
