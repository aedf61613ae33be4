-- +goose Up

-- What an upstream credential has to wait for: see storage.Hold and storage.Storage.Reserve.
CREATE TABLE holds (
    credential bytea PRIMARY KEY,         -- SHA-256
    until      bigint NOT NULL DEFAULT 0, -- nothing before this moment
    next       bigint NOT NULL DEFAULT 0  -- the end of what was reserved
) WITH (fillfactor = 50);

-- Bytes that count for the quota. What was stored before this step counts as nothing.
ALTER TABLE queues ADD COLUMN bytes bigint NOT NULL DEFAULT 0;  -- of its batches of any state
ALTER TABLE batches ADD COLUMN bytes bigint NOT NULL DEFAULT 0; -- of its requests, and when it has ended, of its results

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
