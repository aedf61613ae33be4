-- +goose Up
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
