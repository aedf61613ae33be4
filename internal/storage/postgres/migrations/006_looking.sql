-- +goose Up
ALTER TABLE batches ADD COLUMN trace text NOT NULL DEFAULT ''; -- the trace that the batch continues; empty: none
CREATE INDEX batches_failed ON batches (store, owner, id) WHERE failed > 0 AND NOT deleted;
CREATE INDEX batches_lineage ON batches (retry_of) WHERE retry_of IS NOT NULL AND NOT deleted;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
