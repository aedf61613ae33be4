-- +goose Up
-- waits_for is storage.WaitReason, and waits_since is when the queue was first released for it.
ALTER TABLE owners
    ADD COLUMN waits_for smallint NOT NULL DEFAULT 0,
    ADD COLUMN waits_since bigint NOT NULL DEFAULT 0;

-- Upstreams that are unavailable. They receive only probes.
CREATE TABLE outages (
    upstream bytea PRIMARY KEY,
    since    bigint NOT NULL,
    probes   integer NOT NULL, -- how many were sent
    probe_at bigint NOT NULL   -- when the next one may be sent
);

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
