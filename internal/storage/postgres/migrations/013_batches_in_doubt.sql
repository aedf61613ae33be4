-- +goose Up
-- Of its requests, when it has ended; -1: not counted, as a version before this step ended it.
ALTER TABLE batches ADD COLUMN IF NOT EXISTS in_doubt smallint NOT NULL DEFAULT -1;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
