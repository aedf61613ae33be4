-- +goose Up
-- The host of a callback's address, with its port.
-- +goose StatementBegin
CREATE FUNCTION sheaf_host(callback bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT lower(coalesce(substring(encode(callback, 'escape') FROM '://([^/?]*)'), ''))
$$;
-- +goose StatementEnd

-- A delivery's lane is its store and its receiver's host: lanes take turns.
ALTER TABLE deliveries ADD COLUMN store text NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN host text NOT NULL DEFAULT '';

UPDATE deliveries SET store = batches.store, host = sheaf_host(batches.callback) FROM batches WHERE batches.id = deliveries.batch;

CREATE INDEX deliveries_lanes ON deliveries (store, host, next_at) WHERE state = 1;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
