-- +goose Up
ALTER TABLE batches ADD COLUMN claims integer NOT NULL DEFAULT 0;      -- claims since the last progress that a node's death has ended, and the one under way
ALTER TABLE batches ADD COLUMN claimed boolean NOT NULL DEFAULT false;   -- the last claim was counted and did not end in order
ALTER TABLE batches ADD COLUMN quarantined_at bigint NOT NULL DEFAULT 0; -- set aside, for what reason says; not one of queues.open then

CREATE INDEX batches_quarantined ON batches (queue, id) WHERE quarantined_at <> 0;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
