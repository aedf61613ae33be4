-- +goose Up
-- This step changed the key of holds, which nodes of the previous version need. See 021_store_holds.sql.
SELECT 1;
