-- What pruning and checking ask and do. `-- name:` starts one; parameters are :named, lists are JSON arrays.

-- name: candidates
-- Finished root runs that are not among the latest :keep, oldest first.
SELECT id, ended FROM (
    SELECT id, created, ended FROM runs WHERE parent_id IS NULL ORDER BY created DESC, id DESC LIMIT -1 OFFSET :keep
)
WHERE ended IS NOT NULL ORDER BY created, id;

-- name: needed
-- Root runs that an unfinished one goes on from, and whatever else went on from these.
WITH RECURSIVE lives (id, origin) AS (
    SELECT id, resumed_from FROM runs WHERE parent_id IS NULL AND ended IS NULL
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.id = lives.origin
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.resumed_from = lives.id
)
SELECT id FROM lives;

-- name: tree_of
-- Parents before children.
WITH RECURSIVE tree (id, depth) AS (
    SELECT :root_id, 0
    UNION
    SELECT runs.id, depth + 1 FROM runs JOIN tree ON runs.parent_id = tree.id
)
SELECT id FROM tree ORDER BY depth;

-- name: remove_runs
DELETE FROM runs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: remove_attempts
DELETE FROM earlier_attempts WHERE run_id IN (SELECT value FROM json_each(:ids));

-- name: remove_edges
DELETE FROM edges WHERE downstream_id IN (SELECT value FROM json_each(:ids));

-- name: remove_logs
DELETE FROM logs WHERE run_id IN (SELECT value FROM json_each(:ids));

-- name: addresses_of
-- Where these runs have, or have found, their values; and the parameters of root runs.
SELECT result_key FROM runs
WHERE id IN (SELECT value FROM json_each(:ids)) AND result_key IS NOT NULL AND result_storage IS NULL
UNION
SELECT address FROM json_each(:ids) JOIN results ON address = value || '.parameters';

-- name: addresses
SELECT address FROM results WHERE address > :after ORDER BY address LIMIT :limit;

-- name: unneeded_results
-- Of these results, those that nobody needs once the trees of :gone are gone. A run needs its value, unless that has
-- expired: then only those do that somebody may go on from right now. A value without a run may answer to its cache
-- key, if it is younger than :serving_since.
SELECT address, path, size FROM results
WHERE address IN (SELECT value FROM json_each(:addresses))
  AND CASE
        WHEN expires <= :now THEN NOT EXISTS (
            SELECT 1 FROM runs WHERE id = address AND result_key = address
            AND root_id IN (SELECT value FROM json_each(:needed))
            UNION ALL
            SELECT 1 FROM runs WHERE result_key = address AND result_key <> id
            AND root_id IN (SELECT value FROM json_each(:needed))
        )
        WHEN cache_key IS NULL OR :serving_since IS NULL OR created < :serving_since THEN NOT EXISTS (
            SELECT 1 FROM runs WHERE id = address AND result_key = address
            AND root_id NOT IN (SELECT value FROM json_each(:gone))
            UNION ALL
            SELECT 1 FROM runs WHERE result_key = address AND result_key <> id
            AND root_id NOT IN (SELECT value FROM json_each(:gone))
            UNION ALL  -- the parameters of a root run, for another life of it
            SELECT 1 FROM runs WHERE id = substr(address, 1, 32) AND address = id || '.parameters'
            AND root_id NOT IN (SELECT value FROM json_each(:gone))
        )
      END;

-- name: remove_results
DELETE FROM results WHERE address IN (SELECT value FROM json_each(:addresses));

-- name: paths
SELECT path, size FROM results WHERE path IS NOT NULL;

-- name: used
-- Bytes: of the database without what is free in it, and of large results.
SELECT (page_count - freelist_count) * page_size, (SELECT COALESCE(SUM(size), 0) FROM results WHERE path IS NOT NULL)
FROM pragma_page_count, pragma_freelist_count, pragma_page_size;

-- name: number_of_runs
SELECT COUNT(*) FROM runs;

-- name: free_pages
SELECT auto_vacuum, freelist_count FROM pragma_auto_vacuum, pragma_freelist_count;

-- name: lone_runs
SELECT COUNT(*) FROM runs WHERE parent_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM runs AS parents WHERE parents.id = runs.parent_id
);

-- name: lone_attempts
SELECT COUNT(*) FROM earlier_attempts WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = run_id);

-- name: lone_edges
SELECT COUNT(*) FROM edges WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = downstream_id);

-- name: lone_logs
SELECT COUNT(*) FROM logs WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = run_id);

-- name: wrong_sizes
SELECT address, size, length(sealed) FROM results WHERE sealed IS NOT NULL AND length(sealed) <> size;
