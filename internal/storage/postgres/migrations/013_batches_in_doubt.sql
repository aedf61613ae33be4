-- +goose Up
-- Requests in doubt, set when the batch ends; -1: a version before this step ended it.
ALTER TABLE batches ADD COLUMN IF NOT EXISTS in_doubt smallint NOT NULL DEFAULT -1;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
