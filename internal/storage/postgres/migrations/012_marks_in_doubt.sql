-- +goose Up
ALTER TABLE marks ADD COLUMN IF NOT EXISTS in_doubt boolean NOT NULL DEFAULT false; -- storage.Tries.InDoubt

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
