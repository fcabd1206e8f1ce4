-- What the store does inside its transactions, apart from inserting rows. `-- name:` starts one; parameters are :named.

-- Asked when others have changed something since our last transaction.
-- name: guard
SELECT user_version, (SELECT json_group_array(owner) FROM dead_owners) FROM pragma_user_version;

-- name: among_the_dead
SELECT owner FROM dead_owners
WHERE owner IN (SELECT value FROM json_each(:owners))
   OR owner IN (SELECT runs.owner FROM json_each(:roots) JOIN runs ON runs.id = value)
LIMIT 1;

-- name: roots_of
SELECT id FROM runs WHERE parent_id IS NULL AND ended IS NULL AND owner = :owner ORDER BY created, id;

-- name: crash
-- The status is in the index that leads down the tree, `ended` is not.
WITH RECURSIVE tree (id, status) AS (
    SELECT id, status FROM runs WHERE parent_id IS NULL AND ended IS NULL AND owner = :owner
    UNION
    SELECT runs.id, runs.status FROM runs JOIN tree ON runs.parent_id = tree.id
)
UPDATE runs
SET status = 'CRASHED', state_name = 'Crashed', ended = :now, message = :message,
    error_type = CASE kind WHEN 'flow' THEN 'CrashedRun' ELSE error_type END
WHERE ended IS NULL
  AND id IN (SELECT id FROM tree WHERE status NOT IN ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED'));

-- name: bury
INSERT INTO dead_owners VALUES (:owner, :now) ON CONFLICT DO NOTHING;

-- name: forget_the_dead
DELETE FROM dead_owners WHERE declared < :old;

-- name: taken
-- A run that has completed may be in the line of those that :origin goes on from: it was tried again.
WITH RECURSIVE lives (id, origin) AS (
    SELECT id, resumed_from FROM runs WHERE id = :origin
    UNION
    SELECT runs.id, runs.resumed_from FROM lives JOIN runs ON runs.id = lives.origin
)
SELECT * FROM runs
WHERE resumed_from IN (SELECT value FROM json_each(:lives)) AND parent_id IS NULL
  AND (ended IS NULL OR status = 'COMPLETED') AND id NOT IN (SELECT id FROM lives)
ORDER BY created DESC, id DESC LIMIT 1;

-- name: drop_results
DELETE FROM results WHERE address IN (SELECT value FROM json_each(:addresses));
