-- What Postgres has to be asked, told or made in other words: by name in the place of a statement in queries.sql, or
-- in addition. For the rest a few words are exchanged: see `dialect`.

-- name: runs
WITH RECURSIVE below (id) AS (
    SELECT id FROM runs WHERE parent_id = :below
    UNION
    SELECT runs.id FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT * FROM (
    SELECT * FROM runs WHERE parent_id IS NULL AND :below IS NULL
    UNION ALL
    SELECT runs.* FROM below JOIN runs ON runs.id = below.id
) AS looked_at
WHERE (:kind IS NULL OR kind = :kind)
  AND (:name IS NULL OR name = :name)
  AND (:since IS NULL OR created >= :since)
  AND (:until IS NULL OR created < :until)
  AND (:created IS NULL OR (created, id) < (:created, :id))
  AND (:states = '[]' OR EXISTS (
        SELECT 1 FROM json_each(:states) WHERE lower(value) IN (lower(status), lower(state_name))))
  AND (:tags = '[]' OR elements_of(tags) @> elements_of(:tags))
  AND (:text IS NULL OR name ILIKE :text ESCAPE '\' OR run_name ILIKE :text ESCAPE '\'
       OR message ILIKE :text ESCAPE '\' OR parameters ILIKE :json_text ESCAPE '\'
       OR error_type ILIKE :text ESCAPE '\' OR error ILIKE :text ESCAPE '\')
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: tally
WITH RECURSIVE below (id, place, inside) AS (
    SELECT id, '' COLLATE "C", CASE kind WHEN 'flow' THEN name ELSE '' END FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, below.inside, CASE kind WHEN 'flow' THEN ltrim(below.inside || '/' || name, '/') ELSE below.inside END
    FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT place, kind, name, status, state_name, COUNT(*),
       COUNT(CASE WHEN EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = below.id) THEN 1 END), MIN(created)
FROM below JOIN runs ON runs.id = below.id
GROUP BY place, kind, name, status, state_name
ORDER BY place, kind, name, status, state_name;

-- name: results_of
-- The index has beginnings only, see postgres_schema.sql.
SELECT * FROM results WHERE left(task_key, 200) = left(:task_key, 200) AND task_key = :task_key
ORDER BY created DESC, address DESC LIMIT :limit;

-- name: kept
SELECT position, result_key, result_storage, name, key, code, root_id, id FROM runs
WHERE root_id = :root_id AND result_key IS NOT NULL AND status = 'COMPLETED' AND id > :place
ORDER BY id LIMIT :limit;

-- name: lives
-- Of a recursive union only the last part may look at what was found before.
WITH RECURSIVE lives (id, origin) AS (
    SELECT id, resumed_from FROM runs WHERE id = :run_id
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.id = lives.origin OR runs.resumed_from = lives.id
)
SELECT runs.* FROM lives JOIN runs ON runs.id = lives.id ORDER BY runs.created DESC, runs.id DESC;

-- name: is_there
SELECT to_regclass('penstock.store') IS NOT NULL, current_setting('server_encoding');

-- name: guard
SELECT version, store.id, EXISTS (SELECT 1 FROM dead_owners) FROM store;

-- name: take_turn
-- The last one sees what was written by those who had the lock before: each statement has a look of its own.
BEGIN;
SET LOCAL lock_timeout = :patience;
SELECT pg_advisory_xact_lock(:lock);
SELECT version, store.id, EXISTS (SELECT 1 FROM dead_owners), pg_current_xact_id() FROM store;

-- name: fate
SELECT pg_xact_status(:transaction::xid8);

-- name: to_the_disk
-- Only ever more than what the server is set to: it may have to wait for a second machine, too.
SELECT set_config('synchronous_commit', 'on', TRUE) WHERE current_setting('synchronous_commit') IN ('off', 'local');

-- name: hold
SELECT pg_advisory_lock_shared(:lock);

-- name: beat
INSERT INTO owners SELECT value, now() FROM json_each(:owners) WHERE value NOT IN (SELECT owner FROM dead_owners)
ON CONFLICT (owner) DO UPDATE SET seen = excluded.seen;

-- name: leave
DELETE FROM owners WHERE owner IN (SELECT value FROM json_each(:owners));

-- name: vouches
-- Whoever has lost its connection, because the server was started again perhaps, has some time to come back.
SELECT EXISTS (
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = :high AND objid = :low
) OR EXISTS (
    SELECT 1 FROM owners WHERE owner = :owner
    AND greatest(seen, pg_postmaster_start_time()) > now() - make_interval(secs => :absence)
);

-- name: forget_the_absent
DELETE FROM owners WHERE owner = :owner OR seen < to_timestamp(:old);

-- name: about
SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())::double precision,
       (SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
        WHERE relnamespace = 'penstock'::regnamespace AND relkind = 'r');

-- name: requests
SELECT run_id FROM requests;

-- name: post
INSERT INTO requests VALUES (:run_id) ON CONFLICT DO NOTHING;

-- name: take
DELETE FROM requests WHERE run_id = :run_id RETURNING run_id;

-- name: candidates
SELECT id, ended FROM (
    SELECT id, created, ended FROM runs WHERE parent_id IS NULL ORDER BY created DESC, id DESC OFFSET :keep
) AS too_many
WHERE ended IS NOT NULL ORDER BY created, id;

-- name: needed
WITH RECURSIVE lives (id, origin) AS (
    SELECT id, resumed_from FROM runs WHERE parent_id IS NULL AND ended IS NULL
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.id = lives.origin OR runs.resumed_from = lives.id
)
SELECT id FROM lives;

-- name: used
SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0)::bigint, 0 FROM pg_class
WHERE relnamespace = 'penstock'::regnamespace AND relkind = 'r';
