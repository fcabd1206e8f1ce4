-- The record of all runs and the results of some, version 2. Times are seconds since the epoch, ids 32 hexadecimal digits.
-- Columns are in the order of the row classes in base.py. Only keys are constrained: a row that comes out odd
-- is worth more than one that is refused together with its whole batch.

CREATE TABLE runs (
    id              TEXT PRIMARY KEY NOT NULL,
    root_id         TEXT,           -- the outermost run
    parent_id       TEXT,           -- the run whose body called this one
    flow_run_id     TEXT,           -- the nearest flow run around it
    kind            TEXT,           -- flow, task
    name            TEXT,
    run_name        TEXT,
    key             TEXT,           -- identity of the flow or task
    map_index       INTEGER,
    status          TEXT,           -- PENDING RUNNING WAITING COMPLETED FAILED CRASHED CANCELLED
    state_name      TEXT,           -- Completed, Cached, TimedOut, UpstreamFailed, ...
    attempts        INTEGER,        -- started so far
    created         REAL,
    ready           REAL,           -- all inputs were there
    started         REAL,           -- first attempt
    attempt_started REAL,           -- latest attempt
    ended           REAL,
    message         TEXT,
    error_type      TEXT,
    error           TEXT,
    traceback       TEXT,
    result          TEXT,           -- short representation, for people
    parameters      TEXT,           -- JSON object: name -> short representation
    tags            TEXT,           -- JSON array
    version         TEXT,
    info            TEXT,           -- JSON object: host and pid of a root run, ...
    owner           TEXT,           -- root runs: token of the process that owns it
    resumed_from    TEXT,           -- root runs: the run whose work this one goes on with
    position        TEXT,           -- place in the root run's tree, the same in every life; if it is kept
    result_key      TEXT,           -- where the value is kept; NULL: it is not
    result_storage  TEXT,           -- the storage that holds it; NULL: this store
    code            TEXT            -- digest of the task's code; if the value is kept
);

-- One index serves listing children in order, walking the tree below a run, and counting states without
-- touching the table: every further index would be paid for by every task.
CREATE INDEX runs_by_parent ON runs (parent_id, created, id, kind, status, state_name);
CREATE INDEX root_runs ON runs (created, id) WHERE parent_id IS NULL;
CREATE INDEX named_runs ON runs (run_name, created) WHERE kind = 'flow' OR parent_id IS NULL;

-- Small ones: a run without a kept value costs nothing in them, nor does a task in a flow.
CREATE INDEX kept_runs ON runs (root_id) WHERE result_key IS NOT NULL;
CREATE INDEX borrowing_runs ON runs (result_key) WHERE result_key IS NOT NULL AND result_key <> id;
CREATE INDEX unfinished_runs ON runs (owner) WHERE parent_id IS NULL AND ended IS NULL;
CREATE INDEX resumed_runs ON runs (resumed_from) WHERE resumed_from IS NOT NULL;

-- Attempts that were followed by another one; the latest is part of its run.
CREATE TABLE earlier_attempts (
    run_id     TEXT,
    number     INTEGER,
    started    REAL,
    ended      REAL,
    state_name TEXT,
    error_type TEXT,
    error      TEXT,
    traceback  TEXT,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID;

CREATE VIEW attempts AS
    SELECT run_id, number, started, ended, state_name, error_type, error, traceback FROM earlier_attempts
    UNION ALL
    SELECT id, attempts, attempt_started, ended, state_name, error_type, error, traceback FROM runs
    WHERE attempts > 0
      AND NOT EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = runs.id AND number = runs.attempts);

-- Who waited for whom. Who called whom is runs.parent_id.
CREATE TABLE edges (
    downstream_id TEXT,
    upstream_id   TEXT,
    kind          TEXT,             -- data, wait_for
    parameter     TEXT,
    PRIMARY KEY (downstream_id, upstream_id, kind)
) WITHOUT ROWID;

CREATE TABLE logs (
    seq     INTEGER PRIMARY KEY,    -- order of arrival
    run_id  TEXT,
    time    REAL,
    level   INTEGER,
    logger  TEXT,
    message TEXT
);

CREATE INDEX logs_by_run ON logs (run_id);

-- Kept values. Several may answer to one cache key: the latest does.
CREATE TABLE results (
    address   TEXT PRIMARY KEY NOT NULL, -- id of the run that made it
    cache_key TEXT,
    task_key  TEXT,                 -- identity of the task
    created   REAL,
    expires   REAL,
    size      INTEGER,              -- bytes of the sealed value
    path      TEXT,                 -- name of the file that holds it, if it is large
    sealed    BLOB                  -- the value with header and digest, if it is small
);

CREATE INDEX results_by_cache_key ON results (cache_key, created) WHERE cache_key IS NOT NULL;
CREATE INDEX results_by_task ON results (task_key, created);

-- Processes whose runs were recorded as crashed. Should one of them be alive after all, its rows are refused.
CREATE TABLE dead_owners (
    owner    TEXT PRIMARY KEY NOT NULL,
    declared REAL
) WITHOUT ROWID;

PRAGMA user_version = 2;
