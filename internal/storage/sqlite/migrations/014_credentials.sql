-- What is known about the credentials that the upstream accepts.
CREATE TABLE credentials (
    id          BLOB PRIMARY KEY,            -- SHA-256
    accepted_at INTEGER NOT NULL DEFAULT 0,  -- when a request last succeeded, to the day; 0: never
    expired_at  INTEGER NOT NULL DEFAULT 0   -- when the upstream refused it; 0: it didn't
) STRICT, WITHOUT ROWID;

CREATE INDEX credentials_expired ON credentials (expired_at) WHERE expired_at <> 0;
