-- What Postgres has to be asked in other words, by name in the place of a query in views.sql.

-- name: parents
WITH parents (id, place) AS MATERIALIZED (
    SELECT key COLLATE "C", value COLLATE "C" FROM json_each_text(CAST(:parents AS json)))

-- name: root_runs
-- :parameter: name of a parameter, :value: pattern for what it was. No row is believed to hold what it should: what is
-- not JSON, or says what no text here can hold (NUL, half a surrogate pair), makes `elements_of` NULL.
SELECT * FROM runs
WHERE parent_id IS NULL
  AND (:name IS NULL OR name = :name)
  AND (:since IS NULL OR created >= :since)
  AND (:until IS NULL OR created < :until)
  AND (:created IS NULL OR (created, id) < (:created, :id))
  AND (:states = '[]' OR EXISTS (
        SELECT 1 FROM json_each(:states) WHERE lower(value) IN (lower(status), lower(state_name))))
  AND (:tags = '[]' OR elements_of(tags) @> elements_of(:tags))
  AND (:text IS NULL OR name LIKE :text ESCAPE '\' OR run_name LIKE :text ESCAPE '\' OR message LIKE :text ESCAPE '\'
       OR parameters LIKE :json_text ESCAPE '\' OR error_type LIKE :text ESCAPE '\' OR error LIKE :text ESCAPE '\')
  AND (:parameter IS NULL OR CASE WHEN parameters LIKE '{%' THEN
        ((elements_of('[' || parameters || ']'))[1]::json ->> :parameter) COLLATE "C" LIKE :value ESCAPE '\' END)
ORDER BY created DESC, id DESC LIMIT :limit;
