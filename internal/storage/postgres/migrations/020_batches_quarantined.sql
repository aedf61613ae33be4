-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS batches_quarantined ON batches (queue, id) WHERE quarantined_at <> 0;
