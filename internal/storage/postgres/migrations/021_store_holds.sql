-- +goose Up
-- What an upstream credential has to wait for. A hold belongs to a credential and a store; a
-- reservation to a credential and the empty store. Nodes of older versions use the table holds.
CREATE TABLE store_holds (
    credential bytea NOT NULL,            -- SHA-256
    store      bytea NOT NULL DEFAULT '',
    until      bigint NOT NULL DEFAULT 0, -- nothing before this moment
    next       bigint NOT NULL DEFAULT 0, -- the end of what was reserved
    set_at     bigint NOT NULL DEFAULT 0, -- when the row was written; 0: unknown
    PRIMARY KEY (credential, store)
) WITH (fillfactor = 50);
