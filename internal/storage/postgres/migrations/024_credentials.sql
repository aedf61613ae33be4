-- +goose Up
-- What is known about the credentials that the upstream accepts.
CREATE TABLE credentials (
    id          bytea PRIMARY KEY,         -- SHA-256
    accepted_at bigint NOT NULL DEFAULT 0, -- when a request last succeeded, to the day; 0: never
    expired_at  bigint NOT NULL DEFAULT 0  -- when the upstream refused it; 0: it didn't
);

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
