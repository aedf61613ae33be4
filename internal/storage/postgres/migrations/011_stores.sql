-- +goose Up
-- Changed the key of holds, which nodes of the version before need. See 021_store_holds.sql.
SELECT 1;
