-- A hold belongs to a credential and a store; a reservation to a credential and the empty store.
CREATE TABLE store_holds (
    credential BLOB NOT NULL,              -- SHA-256
    store      TEXT NOT NULL DEFAULT '',
    until      INTEGER NOT NULL DEFAULT 0, -- nothing before this moment
    next       INTEGER NOT NULL DEFAULT 0, -- the end of what was reserved
    set_at     INTEGER NOT NULL DEFAULT 0, -- when the row was written; 0: unknown
    PRIMARY KEY (credential, store)
) STRICT, WITHOUT ROWID;

INSERT INTO store_holds (credential, until, next, set_at) SELECT credential, until, next, set_at FROM holds;
DROP TABLE holds;
ALTER TABLE store_holds RENAME TO holds;
