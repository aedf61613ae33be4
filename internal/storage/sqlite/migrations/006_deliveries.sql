ALTER TABLE batches ADD COLUMN callback TEXT NOT NULL DEFAULT ''; -- where its end is told; empty: nowhere

-- The telling of batches' ends; a batch has at most one.
CREATE TABLE deliveries (
    id         INTEGER PRIMARY KEY, -- the batch's
    state      INTEGER NOT NULL,    -- storage.DeliveryState
    attempts   INTEGER NOT NULL DEFAULT 0,
    next_at    INTEGER NOT NULL,
    code       INTEGER NOT NULL DEFAULT 0,
    problem    TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 1;
