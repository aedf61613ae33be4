-- +goose Up
-- The requests are compressed already.
ALTER TABLE requests ALTER COLUMN packed SET STORAGE EXTERNAL;
