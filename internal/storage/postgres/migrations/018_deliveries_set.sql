-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS deliveries_set ON deliveries (set_at) WHERE state = 1;
