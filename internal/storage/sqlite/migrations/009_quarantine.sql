ALTER TABLE batches ADD COLUMN claims INTEGER NOT NULL DEFAULT 0;       -- claims since the last progress that a node's death has ended, and the one under way
ALTER TABLE batches ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0;        -- the last claim was counted and did not end in order
ALTER TABLE batches ADD COLUMN quarantined_at INTEGER NOT NULL DEFAULT 0; -- set aside, for what reason says; not one of queues.open then

CREATE INDEX batches_quarantined ON batches (id) WHERE quarantined_at <> 0;
CREATE INDEX batches_quarantined_of ON batches (queue) WHERE quarantined_at <> 0;
