-- +goose Up
-- The answer's headers: storage.PackHeaders; NULL: none, or stored before this step.
ALTER TABLE marks ADD COLUMN headers bytea;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
