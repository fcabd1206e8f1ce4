-- Every query that penstock asks a store. `-- name:` starts one; parameters are :named.
-- "Below" a run: the runs it called, the runs those called, and so on.

-- name: get
SELECT * FROM runs WHERE id = :run_id;

-- name: last
SELECT * FROM runs WHERE parent_id IS NULL ORDER BY created DESC, id DESC LIMIT 1;

-- name: roots_by_prefix
-- The ids of a flow's task runs start like its own, so root runs are asked first. The named index is the
-- short way: the primary key would lead through all those task runs.
SELECT * FROM runs INDEXED BY root_runs
WHERE parent_id IS NULL AND id >= :text AND id < :text || 'g'
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: runs_by_prefix
SELECT * FROM runs WHERE id >= :text AND id < :text || 'g' ORDER BY id LIMIT :limit;

-- name: by_name
SELECT * FROM runs
WHERE (kind = 'flow' OR parent_id IS NULL) AND run_name = :text
ORDER BY created DESC, id DESC LIMIT 1;

-- name: runs
SELECT * FROM runs
WHERE parent_id IS NULL
  AND (:kind IS NULL OR kind = :kind)
  AND (:name IS NULL OR name = :name)
  AND (:status IS NULL OR status = :status)
  AND (:since IS NULL OR created >= :since)
  AND (:created IS NULL OR (created, id) < (:created, :id))
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: children
SELECT * FROM runs WHERE parent_id = :run_id ORDER BY created, id;

-- name: tree
WITH RECURSIVE below (id) AS (
    SELECT id FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT runs.* FROM below JOIN runs ON runs.id = below.id ORDER BY runs.created, runs.id LIMIT :limit;

-- name: counts
WITH RECURSIVE below (id, kind, status, state_name) AS (
    SELECT id, kind, status, state_name FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, runs.kind, runs.status, runs.state_name FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT kind, status, state_name, COUNT(*) FROM below GROUP BY kind, status, state_name
ORDER BY kind, status, state_name;

-- name: attempts
WITH RECURSIVE tree (id) AS (
    SELECT :run_id
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT attempts.* FROM tree JOIN attempts ON attempts.run_id = tree.id
ORDER BY attempts.run_id, attempts.number;

-- name: edges
WITH RECURSIVE tree (id) AS (
    SELECT :run_id
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT edges.* FROM tree JOIN edges ON edges.downstream_id = tree.id
ORDER BY edges.downstream_id, edges.upstream_id, edges.kind;

-- name: logs
WITH RECURSIVE tree (id) AS (
    SELECT :run_id
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
), latest AS (
    SELECT logs.* FROM tree JOIN logs ON logs.run_id = tree.id ORDER BY logs.seq DESC LIMIT :limit
)
SELECT run_id, time, level, logger, message FROM latest ORDER BY seq;

-- name: result
SELECT * FROM results WHERE address = :address;

-- name: cached
SELECT * FROM results WHERE cache_key = :cache_key ORDER BY created DESC, address DESC LIMIT 1;

-- name: results_of
SELECT * FROM results WHERE task_key = :task_key ORDER BY created DESC, address DESC LIMIT :limit;

-- name: kept
SELECT MAX(place), json_group_array(json_array(position, result_key, result_storage, name, key, code, root_id))
FROM (
    SELECT rowid AS place, * FROM runs
    WHERE root_id = :root_id AND result_key IS NOT NULL AND status = 'COMPLETED' AND rowid > :place
    ORDER BY rowid LIMIT :limit
);

-- name: not_kept
WITH RECURSIVE tree (id) AS (
    SELECT value FROM json_each(:roots)
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT runs.name, COUNT(*) FROM tree JOIN runs ON runs.id = tree.id
WHERE runs.kind = 'task' AND runs.status = 'COMPLETED' AND runs.result_key IS NULL
GROUP BY runs.name ORDER BY runs.name;

-- name: lost
-- Completed runs whose value was kept in this store and is not there any more, or is not to be used any more.
WITH RECURSIVE tree (id) AS (
    SELECT value FROM json_each(:roots)
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT runs.name, COUNT(*) FROM tree
JOIN runs ON runs.id = tree.id
LEFT JOIN results ON results.address = runs.result_key
WHERE runs.status = 'COMPLETED' AND runs.result_key IS NOT NULL AND runs.result_storage IS NULL
  AND (results.address IS NULL OR results.expires <= :now)
GROUP BY runs.name ORDER BY runs.name;

-- name: lives
-- Up and down the chain: a run goes on from one, and several may go on from it.
WITH RECURSIVE lives (id, origin) AS (
    SELECT id, resumed_from FROM runs WHERE id = :run_id
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.id = lives.origin
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.resumed_from = lives.id
)
SELECT runs.* FROM lives JOIN runs ON runs.id = lives.id ORDER BY runs.created DESC, runs.id DESC;

-- name: unfinished
SELECT * FROM runs
WHERE parent_id IS NULL AND ended IS NULL AND (:owner IS NULL OR owner = :owner)
ORDER BY created DESC, id DESC;

-- name: owners
SELECT DISTINCT owner FROM runs
WHERE parent_id IS NULL AND ended IS NULL AND owner IS NOT NULL ORDER BY owner;
