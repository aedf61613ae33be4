-- +goose Up
-- claims: claims since the last progress that ended with a node's death, and the current one.
-- claimed: the last claim was counted and has not ended normally.
-- quarantined_at: when the batch was quarantined, for the given reason. queues.open doesn't count it.
ALTER TABLE batches
    ADD COLUMN claims integer NOT NULL DEFAULT 0,
    ADD COLUMN claimed boolean NOT NULL DEFAULT false,
    ADD COLUMN quarantined_at bigint NOT NULL DEFAULT 0;
