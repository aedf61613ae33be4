-- +goose Up
ALTER TABLE batches ADD COLUMN callback bytea NOT NULL DEFAULT ''; -- the URL that is notified of its end; empty: none

-- Notifications of batches' ends; a batch has at most one.
CREATE TABLE deliveries (
    batch    bigint PRIMARY KEY,
    state    smallint NOT NULL,            -- storage.DeliveryState
    attempts integer NOT NULL DEFAULT 0,
    next_at  bigint NOT NULL,
    code     integer NOT NULL DEFAULT 0,
    problem  bytea NOT NULL DEFAULT ''
);

CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 1;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
