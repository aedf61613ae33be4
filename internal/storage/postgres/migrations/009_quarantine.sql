-- +goose Up
-- claims: since the last progress that a node's death has ended, and the one under way.
-- claimed: the last claim was counted and did not end in order.
-- quarantined_at: set aside, for what reason says; not one of queues.open then.
ALTER TABLE batches
    ADD COLUMN claims integer NOT NULL DEFAULT 0,
    ADD COLUMN claimed boolean NOT NULL DEFAULT false,
    ADD COLUMN quarantined_at bigint NOT NULL DEFAULT 0;
