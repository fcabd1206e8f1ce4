-- The record in Postgres, version 2: the tables of schema.sql, in a schema of their own. What differs, and why:
--
-- * Texts sort by their bytes (COLLATE "C"), as in SQLite. Other orders change with the C library of the server's
--   machine, and with them every index on a text.
-- * An entry of a btree has 2,704 bytes at most, and a longer one is refused with its whole batch. So texts that users
--   choose are in hash indexes, or in none.
-- * Large values are in the table of results: other machines cannot read a file.

CREATE SCHEMA IF NOT EXISTS penstock;
SET LOCAL search_path TO penstock;

CREATE TABLE store (
    version INTEGER,
    id      TEXT                -- of this store: one that was dropped and made again has another
);

CREATE TABLE runs (
    id              TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    root_id         TEXT COLLATE "C",
    parent_id       TEXT COLLATE "C",
    flow_run_id     TEXT COLLATE "C",
    kind            TEXT COLLATE "C",
    name            TEXT COLLATE "C",
    run_name        TEXT COLLATE "C",
    key             TEXT COLLATE "C",
    map_index       BIGINT,
    status          TEXT COLLATE "C",
    state_name      TEXT COLLATE "C",
    attempts        BIGINT,
    created         DOUBLE PRECISION,
    ready           DOUBLE PRECISION,
    started         DOUBLE PRECISION,
    attempt_started DOUBLE PRECISION,
    ended           DOUBLE PRECISION,
    message         TEXT COLLATE "C",
    error_type      TEXT COLLATE "C",
    error           TEXT COLLATE "C",
    traceback       TEXT COLLATE "C",
    result          TEXT COLLATE "C",
    parameters      TEXT COLLATE "C",
    tags            TEXT COLLATE "C",
    version         TEXT COLLATE "C",
    info            TEXT COLLATE "C",
    owner           TEXT COLLATE "C",
    resumed_from    TEXT COLLATE "C",
    position        TEXT COLLATE "C",
    result_key      TEXT COLLATE "C",
    result_storage  TEXT COLLATE "C",
    code            TEXT COLLATE "C"
);

CREATE INDEX runs_by_parent ON runs (parent_id, created, id);
CREATE INDEX root_runs ON runs (created, id) WHERE parent_id IS NULL;
CREATE INDEX named_runs ON runs USING hash (run_name) WHERE kind = 'flow' OR parent_id IS NULL;
CREATE INDEX kept_runs ON runs (root_id, id) WHERE result_key IS NOT NULL;
CREATE INDEX unfinished_runs ON runs (owner) WHERE parent_id IS NULL AND ended IS NULL;
CREATE INDEX resumed_runs ON runs (resumed_from) WHERE resumed_from IS NOT NULL;

CREATE TABLE earlier_attempts (
    run_id     TEXT COLLATE "C",
    number     BIGINT,
    started    DOUBLE PRECISION,
    ended      DOUBLE PRECISION,
    state_name TEXT COLLATE "C",
    error_type TEXT COLLATE "C",
    error      TEXT COLLATE "C",
    traceback  TEXT COLLATE "C",
    PRIMARY KEY (run_id, number)
);

CREATE VIEW attempts AS
    SELECT run_id, number, started, ended, state_name, error_type, error, traceback FROM earlier_attempts
    UNION ALL
    SELECT id, attempts, attempt_started, ended, state_name, error_type, error, traceback FROM runs
    WHERE attempts > 0
      AND NOT EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = runs.id AND number = runs.attempts);

CREATE TABLE edges (
    downstream_id TEXT COLLATE "C",
    upstream_id   TEXT COLLATE "C",
    kind          TEXT COLLATE "C",
    parameter     TEXT COLLATE "C",
    PRIMARY KEY (downstream_id, upstream_id, kind)
);

CREATE TABLE logs (
    seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id  TEXT COLLATE "C",
    time    DOUBLE PRECISION,
    level   BIGINT,
    logger  TEXT COLLATE "C",
    message TEXT COLLATE "C"
);

CREATE INDEX logs_by_run ON logs (run_id);

CREATE TABLE results (
    address   TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    cache_key TEXT COLLATE "C",
    task_key  TEXT COLLATE "C",
    created   DOUBLE PRECISION,
    expires   DOUBLE PRECISION,
    size      BIGINT,
    path      TEXT COLLATE "C",
    sealed    BYTEA
);

CREATE INDEX results_by_cache_key ON results USING hash (cache_key) WHERE cache_key IS NOT NULL;
CREATE INDEX results_by_task ON results (left(task_key, 200), created);

-- A sealed value does not become smaller, so trying to compress it is time lost.
ALTER TABLE results ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Processes that may have runs that have not ended, and when each was last heard of, by the clock of the server.
CREATE TABLE owners (
    owner TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    seen  TIMESTAMP WITH TIME ZONE
);

CREATE TABLE dead_owners (
    owner    TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    declared DOUBLE PRECISION
);

-- Runs that somebody wants to be cancelled. Whoever they belong to takes the row away, which is the answer.
CREATE TABLE requests (
    run_id TEXT COLLATE "C" PRIMARY KEY NOT NULL
);

-- The elements of what is a JSON array if it has not been damaged; NULL if it is none.
CREATE FUNCTION elements_of(array_text TEXT) RETURNS TEXT[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN ARRAY(SELECT json_array_elements_text(array_text::json));
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

