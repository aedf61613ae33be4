-- What an upstream credential has to wait for: see storage.Hold and storage.Storage.Reserve.
CREATE TABLE holds (
    credential BLOB PRIMARY KEY,           -- SHA-256
    until      INTEGER NOT NULL DEFAULT 0, -- nothing before this moment
    next       INTEGER NOT NULL DEFAULT 0  -- the end of what was reserved
) STRICT, WITHOUT ROWID;

-- Bytes that count for the quota. What was stored before this step counts as nothing.
ALTER TABLE queues ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- of its batches of any state
ALTER TABLE batches ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0; -- of its requests, and when it has ended, of its results
