-- +goose Up
-- Holds and reservations of upstream credentials. A hold belongs to a credential and a store, and
-- a reservation to a credential and the empty store. Nodes of older versions use the table holds.
CREATE TABLE store_holds (
    credential bytea NOT NULL,            -- SHA-256
    store      bytea NOT NULL DEFAULT '',
    until      bigint NOT NULL DEFAULT 0, -- nothing is sent before this time
    next       bigint NOT NULL DEFAULT 0, -- the end of the last reserved span
    set_at     bigint NOT NULL DEFAULT 0, -- when the row was written; 0: unknown
    PRIMARY KEY (credential, store)
) WITH (fillfactor = 50);
