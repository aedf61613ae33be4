-- Moments are milliseconds since the Unix epoch; 0 stands for none.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A queue's batches run one after the other.
CREATE TABLE queues (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    open       INTEGER NOT NULL,           -- its unfinished batches
    held       INTEGER NOT NULL,           -- its batches of any state; at 0 the row goes
    owner      INTEGER NOT NULL DEFAULT 0, -- the process that runs it, see settings 'process'; 0: none
    epoch      INTEGER NOT NULL DEFAULT 0, -- the fencing token of its newest claim
    not_before INTEGER NOT NULL DEFAULT 0  -- nothing to do before this moment
) STRICT;

CREATE INDEX queues_open ON queues (id) WHERE open > 0;

CREATE TABLE batches (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    queue           INTEGER NOT NULL,
    state           INTEGER NOT NULL,           -- batch.Status: 1 queued, 2 in progress, 3 completed
    stopped         INTEGER NOT NULL DEFAULT 0,
    deleted         INTEGER NOT NULL DEFAULT 0, -- hidden; its rows go when it has ended
    parallel        INTEGER NOT NULL,
    stop_on_failure INTEGER NOT NULL,
    total           INTEGER NOT NULL,           -- requests
    completed       INTEGER NOT NULL DEFAULT 0, -- requests that ran to an end; set when the batch has ended
    created_at      INTEGER NOT NULL,
    started_at      INTEGER NOT NULL DEFAULT 0,
    ended_at        INTEGER NOT NULL DEFAULT 0,
    ticket          BLOB NOT NULL,
    store           TEXT NOT NULL,
    owner           BLOB NOT NULL,              -- SHA-256 of the creator's token
    group_id        TEXT NOT NULL,              -- empty: none
    dedup_key       BLOB,
    reason          TEXT NOT NULL DEFAULT '',   -- why what was not executed was not
    credential      BLOB                        -- encrypted; NULL when the batch has ended
) STRICT;

CREATE UNIQUE INDEX batches_ticket ON batches (ticket);
CREATE INDEX batches_open ON batches (queue, id) WHERE state < 3;
CREATE INDEX batches_search ON batches (store, owner, state, id) WHERE deleted = 0;
CREATE INDEX batches_group ON batches (store, owner, group_id) WHERE group_id <> '' AND state < 3;
CREATE INDEX batches_dedup ON batches (store, owner, dedup_key, created_at) WHERE dedup_key IS NOT NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE state = 3;

-- Written once. Apart from batches, so that those rows stay small.
CREATE TABLE requests (
    batch  INTEGER PRIMARY KEY,
    ids    BLOB,          -- batch.PackIDs; NULL: no request has one
    packed BLOB NOT NULL  -- batch.Pack
) STRICT;

-- What is durable about single requests. The body stands last, so that
-- everything else is read without its pages.
CREATE TABLE marks (
    id              INTEGER PRIMARY KEY, -- batch * 512 + the request's index
    state           INTEGER NOT NULL,    -- storage.MarkState: 1 begun, 2 waiting, 3 done
    attempts        INTEGER NOT NULL,
    retries         INTEGER NOT NULL,
    throttles       INTEGER NOT NULL,
    throttled_since INTEGER NOT NULL,
    maybe_done      INTEGER NOT NULL,
    started_at      INTEGER NOT NULL,
    ended_at        INTEGER NOT NULL,
    not_before      INTEGER NOT NULL,
    status          INTEGER NOT NULL,    -- batch.ResultStatus; 0: no answer yet
    code            INTEGER NOT NULL,
    kind            INTEGER NOT NULL,    -- batch.BodyKind
    line            TEXT NOT NULL,
    body            BLOB
) STRICT;
