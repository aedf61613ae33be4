ALTER TABLE queues ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN retry_of BLOB;                      -- the ticket of the batch of which it repeats what failed
ALTER TABLE batches ADD COLUMN failed INTEGER NOT NULL DEFAULT -1; -- of its requests, when it has ended; -1: not counted, as it ended before this step

CREATE INDEX batches_retries ON batches (retry_of) WHERE retry_of IS NOT NULL AND state < 3;
CREATE INDEX batches_grouped ON batches (store, owner, group_id) WHERE group_id <> '' AND deleted = 0;
