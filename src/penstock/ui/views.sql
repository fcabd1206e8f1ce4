-- The queries of the dashboard, beside those of the store's queries.sql and in the same style; for both stores, but for
-- what is in views_postgres.sql.
-- {parents} stands for what `walk` has answered, the run itself and all below it that have called others, so that
-- `FROM parents JOIN runs ON runs.parent_id = parents.id` is everything below a run. Most runs call nothing, and finding
-- that out once is most of the way. `place`: names of the flows around what they have called, each followed by a slash.
-- The OFFSET keeps Postgres from looking for all parents that there are in the store.

-- name: walk
WITH RECURSIVE parents (id, place) AS (
    SELECT :run_id, ''
    UNION ALL
    SELECT runs.id, CASE runs.kind WHEN 'flow' THEN parents.place || runs.name || '/' ELSE parents.place END
    FROM parents JOIN runs ON runs.parent_id = parents.id
    WHERE EXISTS (SELECT 1 FROM runs AS child WHERE child.parent_id = runs.id LIMIT 1 OFFSET 0)
)
SELECT id, place FROM parents;

-- name: parents
-- :parents: a JSON object, ids and places.
WITH parents (id, place) AS MATERIALIZED (SELECT key, value FROM json_each(:parents))

-- name: groups
-- Ids of one flow's runs grow in the order of their creation. Last but one: seconds between attempts.
{parents}
SELECT place, kind, name, status, state_name, COUNT(*), SUM(CASE WHEN attempts > 1 THEN 1 ELSE 0 END),
       MIN(created), MIN(started), MAX(ended), SUM(CASE WHEN ended IS NULL THEN 1 ELSE 0 END),
       SUM(ended - started), SUM(started - ready), SUM(ready - created),
       SUM(CASE WHEN attempts > 1 THEN attempt_started - started - COALESCE((
           SELECT SUM(earlier_attempts.ended - earlier_attempts.started) FROM earlier_attempts WHERE run_id = runs.id), 0)
           ELSE 0 END),
       MIN(runs.id)
FROM parents JOIN runs ON runs.parent_id = parents.id
GROUP BY name, state_name, status, kind, place
ORDER BY MIN(created), MIN(runs.id);

-- name: bins
-- Runs that were created, started, started for the last time, and ended in the same bins of time, together. In the order
-- of grouping comes first what differs most, and what is quick to compare.
{parents}
SELECT place, kind, name, status, state_name,
       CASE WHEN created < :begin THEN -1 WHEN created >= :end THEN :bins
            ELSE CAST((created - :begin) * :scale AS INTEGER) END AS created_bin,
       CASE WHEN started < :begin THEN -1 WHEN started >= :end THEN :bins
            ELSE CAST((started - :begin) * :scale AS INTEGER) END AS started_bin,
       CASE WHEN attempt_started < :begin THEN -1 WHEN attempt_started >= :end THEN :bins
            ELSE CAST((attempt_started - :begin) * :scale AS INTEGER) END AS attempt_bin,
       CASE WHEN ended < :begin THEN -1 WHEN ended >= :end THEN :bins
            ELSE CAST((ended - :begin) * :scale AS INTEGER) END AS ended_bin,
       COUNT(*), SUM(created - :begin), SUM(started - :begin), SUM(attempt_started - :begin), SUM(ended - :begin),
       MIN(created), MAX(ended), MAX(attempts)
FROM parents JOIN runs ON runs.parent_id = parents.id
GROUP BY ended_bin, started_bin, created_bin, attempt_bin, state_name, name, status, kind, place;

-- name: earlier
-- Attempts that were followed by another one, in a stretch of time.
{parents}
SELECT place, kind, name, earlier_attempts.started, earlier_attempts.ended
FROM parents JOIN runs ON runs.parent_id = parents.id JOIN earlier_attempts ON earlier_attempts.run_id = runs.id
WHERE (attempts > 1 OR attempts = 1 AND status = 'WAITING') AND earlier_attempts.started < :end AND earlier_attempts.ended >= :begin
LIMIT :limit;

-- name: members
-- Runs of one group in order of creation: a page after another, or, for a picture of all of them, from the :first-th on.
-- An offset costs nothing here that looking for the group does not cost anyway.
-- Sorted are ids alone, and not whole rows.
{parents}
, page AS (
    SELECT runs.id, created FROM parents JOIN runs ON runs.parent_id = parents.id
    WHERE place || name || CASE kind WHEN 'flow' THEN '/' ELSE '' END = :group
      AND (:created IS NULL OR (created, runs.id) > (:created, :id))
    ORDER BY created, runs.id LIMIT :limit OFFSET :first
)
SELECT runs.* FROM page JOIN runs ON runs.id = page.id ORDER BY page.created, page.id;

-- name: attempts_of
-- As the view of this name has them; Postgres would make all of that first.
SELECT * FROM earlier_attempts WHERE run_id IN (SELECT value FROM json_each(:ids))
UNION ALL
SELECT id, attempts, attempt_started, ended, state_name, error_type, error, traceback FROM runs
WHERE id IN (SELECT value FROM json_each(:ids)) AND attempts > 0
  AND NOT EXISTS (SELECT 1 FROM earlier_attempts WHERE run_id = runs.id AND number = runs.attempts)
ORDER BY run_id, number;

-- name: tasks
-- A page: SORT stands for one of a few expressions, AFTER for a comparison, DIRECTION for asc or desc.
{parents}
SELECT SORT, place, runs.* FROM parents JOIN runs ON runs.parent_id = parents.id
WHERE (:name IS NULL OR name = :name)
  AND (:group IS NULL OR place || name || CASE kind WHEN 'flow' THEN '/' ELSE '' END = :group)
  AND (:states = '[]' OR EXISTS (
        SELECT 1 FROM json_each(:states) WHERE lower(value) IN (lower(status), lower(state_name))))
  AND (:text IS NULL OR name LIKE :text ESCAPE '\' OR run_name LIKE :text ESCAPE '\' OR message LIKE :text ESCAPE '\'
       OR parameters LIKE :json_text ESCAPE '\' OR error_type LIKE :text ESCAPE '\' OR error LIKE :text ESCAPE '\')
  AND (:id IS NULL OR (SORT, runs.id) AFTER (:value, :id))
ORDER BY SORT DIRECTION, runs.id DIRECTION LIMIT :limit;

-- name: edges
-- How many edges lead from each group to each other.
{parents}
SELECT above.place, upstream.kind, upstream.name, parents.place, runs.kind, runs.name, edges.kind, COUNT(*)
FROM parents
JOIN runs ON runs.parent_id = parents.id
JOIN edges ON edges.downstream_id = runs.id
JOIN runs AS upstream ON upstream.id = edges.upstream_id
JOIN parents AS above ON above.id = upstream.parent_id
GROUP BY above.place, upstream.kind, upstream.name, parents.place, runs.kind, runs.name, edges.kind;

-- name: edges_into
SELECT edges.*, runs.run_name, runs.kind, runs.name FROM edges JOIN runs ON runs.id = edges.upstream_id
WHERE downstream_id IN (SELECT value FROM json_each(:ids)) LIMIT :limit;

-- name: upstreams
SELECT edges.kind, edges.parameter, runs.* FROM edges JOIN runs ON runs.id = edges.upstream_id
WHERE downstream_id = :run_id ORDER BY runs.created, runs.id LIMIT :limit;

-- name: downstreams
-- Edges are found by who waits, and only runs below the same parents can wait for a run: these are asked one by one.
SELECT edges.kind, edges.parameter, runs.* FROM runs JOIN edges ON edges.downstream_id = runs.id
WHERE runs.parent_id = :parent_id AND edges.upstream_id = :run_id
  AND (runs.created, runs.id) > (:created, :id)
ORDER BY runs.created, runs.id LIMIT :limit;

-- name: last_child
SELECT * FROM runs WHERE parent_id = :run_id AND started IS NOT NULL AND ended IS NOT NULL ORDER BY ended DESC, id DESC LIMIT 1;

-- name: before
-- The last that its caller had called before, if it was over by then.
SELECT * FROM (
    SELECT * FROM runs WHERE parent_id = :parent_id AND created < :created ORDER BY created DESC, id DESC LIMIT 20
) AS called WHERE ended <= :created AND started IS NOT NULL ORDER BY ended DESC LIMIT 1;

-- name: covered
-- Seconds in which at least one run right below was at work.
SELECT SUM(CASE WHEN ended <= so_far THEN 0 WHEN started >= so_far OR so_far IS NULL THEN ended - started
                ELSE ended - so_far END)
FROM (
    SELECT started, ended, MAX(ended) OVER (
        ORDER BY started, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS so_far
    FROM runs WHERE parent_id = :run_id AND started IS NOT NULL AND ended IS NOT NULL
) AS one_after_another;

-- name: root_runs
-- :parameter: name of a parameter, :value: pattern for what it was.
SELECT * FROM runs
WHERE parent_id IS NULL
  AND (:name IS NULL OR name = :name)
  AND (:since IS NULL OR created >= :since)
  AND (:until IS NULL OR created < :until)
  AND (:created IS NULL OR (created, id) < (:created, :id))
  AND (:states = '[]' OR EXISTS (
        SELECT 1 FROM json_each(:states) WHERE lower(value) IN (lower(status), lower(state_name))))
  AND (:tags = '[]' OR CASE WHEN json_valid(tags) THEN NOT EXISTS (
        SELECT 1 FROM json_each(:tags) WHERE value NOT IN (SELECT value FROM json_each(tags))) END)
  AND (:text IS NULL OR name LIKE :text ESCAPE '\' OR run_name LIKE :text ESCAPE '\' OR message LIKE :text ESCAPE '\'
       OR parameters LIKE :json_text ESCAPE '\' OR error_type LIKE :text ESCAPE '\' OR error LIKE :text ESCAPE '\')
  AND (:parameter IS NULL OR CASE WHEN json_valid(parameters) THEN EXISTS (
        SELECT 1 FROM json_each(parameters) WHERE key = :parameter AND value LIKE :value ESCAPE '\') END)
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: names_of_roots
SELECT name, id, run_name, status, state_name, created, started, ended FROM runs
WHERE parent_id IS NULL AND kind = 'flow'
ORDER BY created DESC, id DESC LIMIT :limit;

-- name: digests
-- What can be compared of two runs: the code of each task, and which values it has.
{parents}
SELECT place, kind, name, COUNT(code), COUNT(DISTINCT code), MIN(code), COUNT(result), COUNT(DISTINCT result),
       MIN(result), MAX(result)
FROM parents JOIN runs ON runs.parent_id = parents.id
GROUP BY place, kind, name;

-- name: line_bounds
{parents}
SELECT MIN(seq), MAX(seq) FROM (
    SELECT runs.id FROM parents JOIN runs ON runs.parent_id = parents.id
    UNION ALL
    SELECT :run_id
) AS tree JOIN logs ON logs.run_id = tree.id;

-- name: last_line
SELECT MAX(seq) FROM logs;

-- name: lines
-- The caller keeps the range of numbers small. A line whose run is not recorded yet comes with a later look.
SELECT seq, run_id, time, level, logger, logs.message, kind, name, run_name
FROM logs JOIN runs ON runs.id = logs.run_id
WHERE seq > :low AND seq < :high AND level >= :level
  AND (:text IS NULL OR logs.message LIKE :text ESCAPE '\')
  AND (:task IS NULL OR :task IN (name, run_name, runs.id))
  AND root_id = :root_id AND (:inside IS NULL OR EXISTS (
        WITH RECURSIVE above (id, parent_id) AS (
            SELECT runs.id, runs.parent_id
            UNION ALL
            SELECT parent.id, parent.parent_id FROM above JOIN runs AS parent ON parent.id = above.parent_id
        )
        SELECT 1 FROM above WHERE id = :inside))

-- name: lines_after
{lines}
ORDER BY seq LIMIT :limit;

-- name: lines_before
{lines}
ORDER BY seq DESC LIMIT :limit;
