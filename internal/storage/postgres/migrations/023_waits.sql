-- +goose Up
-- waits_for is storage.WaitReason, and waits_since is when the queue was first released for it.
ALTER TABLE owners
    ADD COLUMN waits_for smallint NOT NULL DEFAULT 0,
    ADD COLUMN waits_since bigint NOT NULL DEFAULT 0;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
