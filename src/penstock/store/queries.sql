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
