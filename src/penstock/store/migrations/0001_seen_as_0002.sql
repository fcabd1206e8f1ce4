-- Lets a reader of version 2 look at a store of version 1, which it must not change: temporary views, seen by its
-- connection only, take the place of tables.

CREATE TEMP VIEW runs AS
    SELECT *, NULL AS owner, NULL AS resumed_from, NULL AS position, NULL AS result_key, NULL AS result_storage,
           NULL AS code
    FROM main.runs;

CREATE TEMP VIEW results AS
    SELECT NULL AS address, NULL AS cache_key, NULL AS task_key, NULL AS created, NULL AS expires, NULL AS size,
           NULL AS path, NULL AS sealed
    WHERE FALSE;
