-- +goose Up
INSERT INTO store_holds (credential, until, next, set_at) SELECT credential, max(until), max(next), max(set_at) FROM holds GROUP BY credential ON CONFLICT DO NOTHING;
