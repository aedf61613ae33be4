-- A delivery's lane is its store and its receiver's host: lanes take turns.
ALTER TABLE deliveries ADD COLUMN store TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN host TEXT NOT NULL DEFAULT '';

UPDATE deliveries SET
    store = (SELECT store FROM batches WHERE batches.id = deliveries.id),
    host = (SELECT lower(substr(rest, 1, instr(replace(rest, '?', '/') || '/', '/') - 1)) FROM (SELECT substr(callback, instr(callback, '://') + 3) AS rest FROM batches WHERE batches.id = deliveries.id))
WHERE EXISTS (SELECT 1 FROM batches WHERE batches.id = deliveries.id);

CREATE INDEX deliveries_lanes ON deliveries (store, host, next_at) WHERE state = 1;
