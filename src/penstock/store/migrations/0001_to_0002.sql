-- Kept values: where they are, whose they are, and what goes on from what.

ALTER TABLE runs ADD COLUMN owner TEXT;
ALTER TABLE runs ADD COLUMN resumed_from TEXT;
ALTER TABLE runs ADD COLUMN position TEXT;
ALTER TABLE runs ADD COLUMN result_key TEXT;
ALTER TABLE runs ADD COLUMN result_storage TEXT;
ALTER TABLE runs ADD COLUMN code TEXT;

CREATE INDEX kept_runs ON runs (root_id) WHERE result_key IS NOT NULL;
CREATE INDEX borrowing_runs ON runs (result_key) WHERE result_key IS NOT NULL AND result_key <> id;
CREATE INDEX unfinished_runs ON runs (owner) WHERE parent_id IS NULL AND ended IS NULL;
CREATE INDEX resumed_runs ON runs (resumed_from) WHERE resumed_from IS NOT NULL;

CREATE TABLE dead_owners (
    owner    TEXT PRIMARY KEY NOT NULL,
    declared REAL
) WITHOUT ROWID;

CREATE TABLE results (
    address   TEXT PRIMARY KEY NOT NULL,
    cache_key TEXT,
    task_key  TEXT,
    created   REAL,
    expires   REAL,
    size      INTEGER,
    path      TEXT,
    sealed    BLOB
);

CREATE INDEX results_by_cache_key ON results (cache_key, created) WHERE cache_key IS NOT NULL;
CREATE INDEX results_by_task ON results (task_key, created);

PRAGMA user_version = 2;
