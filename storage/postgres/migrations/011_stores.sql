-- +goose Up
-- A hold belongs to a credential and a store; a reservation to a credential and the empty store.
ALTER TABLE holds ADD COLUMN store bytea NOT NULL DEFAULT '';
ALTER TABLE holds DROP CONSTRAINT holds_pkey;
ALTER TABLE holds ADD PRIMARY KEY (credential, store);

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
