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
WHERE (kind = 'flow' OR parent_id IS NULL) AND run_name = :text AND (:name IS NULL OR name = :name)
ORDER BY created DESC, id DESC LIMIT 1;

-- name: inside
WITH RECURSIVE below (id) AS (
    SELECT id FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT runs.* FROM below JOIN runs ON runs.id = below.id
WHERE run_name = :text OR name = :text OR (:prefix <> '' AND below.id >= :prefix AND below.id < :prefix || 'g')
ORDER BY run_name <> :text, created, runs.id LIMIT :limit;

-- name: runs
-- Root runs, or what is below one. :states and :tags are JSON arrays, :text and :json_text patterns: parameters are
-- JSON. The filters reach into both arms of the union, so that neither is made as a whole before its first page is.
WITH RECURSIVE below (id) AS (
    SELECT id FROM runs WHERE parent_id = :below
    UNION
    SELECT runs.id FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT * FROM (
    SELECT * FROM runs WHERE parent_id IS NULL AND :below IS NULL
    UNION ALL
    SELECT runs.* FROM below JOIN runs ON runs.id = below.id
)
WHERE (:kind IS NULL OR kind = :kind)
  AND (:name IS NULL OR name = :name)
  AND (:since IS NULL OR created >= :since)
  AND (:until IS NULL OR created < :until)
  AND (:created IS NULL OR (created, id) < (:created, :id))
  AND (:states = '[]' OR EXISTS (
        SELECT 1 FROM json_each(:states) WHERE value COLLATE NOCASE IN (status, state_name)))
  AND (:tags = '[]' OR CASE WHEN json_valid(tags) THEN NOT EXISTS (
        SELECT 1 FROM json_each(:tags) WHERE value NOT IN (SELECT value FROM json_each(tags))) END)
  AND (:text IS NULL OR name LIKE :text ESCAPE '\' OR run_name LIKE :text ESCAPE '\' OR message LIKE :text ESCAPE '\'
       OR parameters LIKE :json_text ESCAPE '\' OR error_type LIKE :text ESCAPE '\' OR error LIKE :text ESCAPE '\')
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: children
SELECT * FROM runs WHERE parent_id = :run_id ORDER BY created, id;

-- name: tree
-- A page of it: those after the last one of the page before. The index alone tells which they are.
WITH RECURSIVE below (id, created) AS (
    SELECT id, created FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, runs.created FROM runs JOIN below ON runs.parent_id = below.id
), page AS (
    SELECT id, created FROM below WHERE :created IS NULL OR (created, id) > (:created, :id)
    ORDER BY created, id LIMIT :limit
)
SELECT runs.* FROM page AS latest JOIN runs ON runs.id = latest.id ORDER BY latest.created, latest.id;

-- name: counts
WITH RECURSIVE below (id, kind, status, state_name) AS (
    SELECT id, kind, status, state_name FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, runs.kind, runs.status, runs.state_name FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT kind, status, state_name, COUNT(*), COUNT(CASE WHEN EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = below.id) THEN 1 END)
FROM below GROUP BY kind, status, state_name
ORDER BY kind, status, state_name;

-- name: tally
-- No flow has a slash in its name. A task that calls others is no place of its own.
WITH RECURSIVE below (id, place, inside) AS (
    SELECT id, '', CASE kind WHEN 'flow' THEN name ELSE '' END FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, below.inside, CASE kind WHEN 'flow' THEN ltrim(below.inside || '/' || name, '/') ELSE below.inside END
    FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT place, kind, name, status, state_name, COUNT(*),
       COUNT(CASE WHEN EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = below.id) THEN 1 END), MIN(created)
FROM below JOIN runs ON runs.id = below.id
GROUP BY place, kind, name, status, state_name
ORDER BY place, kind, name, status, state_name;

-- name: failures
WITH RECURSIVE below (id, status, state_name) AS (
    SELECT id, status, state_name FROM runs WHERE parent_id = :run_id
    UNION
    SELECT runs.id, runs.status, runs.state_name FROM runs JOIN below ON runs.parent_id = below.id
)
SELECT runs.* FROM below JOIN runs ON runs.id = below.id
WHERE below.status IN ('FAILED', 'CRASHED') AND below.state_name <> 'UpstreamFailed'
ORDER BY runs.ended, runs.id LIMIT :limit;

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

-- name: line_numbers
WITH RECURSIVE tree (id) AS (
    SELECT :run_id
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT MIN(seq), MAX(seq) FROM tree JOIN logs ON logs.run_id = tree.id;

-- name: last_line
SELECT MAX(seq) FROM logs;

-- name: lines
-- By number, so that who follows a log looks at new lines only. A line may be there before its run is: it is handed out
-- without names. The tree is walked for runs inside others only, which are small.
WITH RECURSIVE tree (id) AS (
    SELECT :run_id
    UNION
    SELECT runs.id FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT seq, run_id, time, level, logger, logs.message, kind, name, run_name
FROM logs LEFT JOIN runs ON runs.id = logs.run_id
WHERE seq > :after AND seq <= :last AND level >= :level AND (:since IS NULL OR time >= :since)
  AND (kind IS NULL OR (:name IS NULL OR :name IN (name, run_name)) AND CASE
        WHEN :is_root THEN root_id = :run_id ELSE runs.id IN (SELECT id FROM tree) END)
ORDER BY seq;

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
