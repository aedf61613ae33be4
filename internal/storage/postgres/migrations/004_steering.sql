-- +goose Up
ALTER TABLE queues ADD COLUMN paused boolean NOT NULL DEFAULT false;
ALTER TABLE batches ADD COLUMN paused boolean NOT NULL DEFAULT false;
ALTER TABLE batches ADD COLUMN retry_of uuid;                          -- the ticket of the batch whose failed requests this one repeats
ALTER TABLE batches ADD COLUMN failed smallint NOT NULL DEFAULT -1;    -- failed requests, set when the batch ends; -1: it ended before this step

CREATE INDEX batches_paused ON batches (queue) WHERE ended_at = 0 AND paused;
CREATE INDEX queues_paused ON queues (id) WHERE paused;
CREATE INDEX batches_retries ON batches (retry_of) WHERE ended_at = 0 AND retry_of IS NOT NULL;
CREATE INDEX batches_grouped ON batches (store, owner, group_id) WHERE group_id <> '' AND NOT deleted;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
