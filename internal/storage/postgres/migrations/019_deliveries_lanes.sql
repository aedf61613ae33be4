-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS deliveries_lanes ON deliveries (store, host, next_at) WHERE state = 1;
