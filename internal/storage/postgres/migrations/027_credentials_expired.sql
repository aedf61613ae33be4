-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS credentials_expired ON credentials (expired_at) WHERE expired_at <> 0;

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
