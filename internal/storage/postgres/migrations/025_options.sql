-- +goose Up
-- The options of a batch that have no column of their own, as storage.PackOptions writes them; empty: none.
ALTER TABLE batches ADD COLUMN options bytea NOT NULL DEFAULT '';
