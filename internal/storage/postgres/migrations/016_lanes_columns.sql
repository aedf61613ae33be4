-- +goose Up
-- set_at: as in holds. A delivery's lane is its store and its receiver's host. Lanes take turns.
ALTER TABLE deliveries
    ADD COLUMN IF NOT EXISTS set_at bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS store text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS host text NOT NULL DEFAULT '';
