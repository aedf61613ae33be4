-- +goose Up

-- Holds and reservations of upstream credentials: see storage.Hold and storage.Storage.Reserve.
CREATE TABLE holds (
    credential bytea PRIMARY KEY,         -- SHA-256
    until      bigint NOT NULL DEFAULT 0, -- nothing is sent before this time
    next       bigint NOT NULL DEFAULT 0  -- the end of the last reserved span
) WITH (fillfactor = 50);

-- Bytes that count for the quota. Data from before this step doesn't count.
ALTER TABLE queues ADD COLUMN bytes bigint NOT NULL DEFAULT 0;  -- of its batches in any state
ALTER TABLE batches ADD COLUMN bytes bigint NOT NULL DEFAULT 0; -- of its requests and, once it has ended, of its results

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
