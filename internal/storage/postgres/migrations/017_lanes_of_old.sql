-- +goose Up
UPDATE deliveries SET store = batches.store, host = sheaf_host(batches.callback) FROM batches WHERE batches.id = deliveries.batch AND deliveries.store = '';
