-- A database of schema version 1. Never change it.
PRAGMA application_id = 1936221537;
PRAGMA user_version = 1;
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
INSERT INTO "batches" VALUES(1,1,3,0,0,0,0,2,2,1795558866109,1795558866110,1795558866111,X'FDA9FEC6487E4627ADEBEAE80A812B34','s',X'3C469E9D6C5875D37A43F353D4F88E61FCF812C66EEE3457465A40B0DA4153E0','',NULL,'',NULL);
INSERT INTO "batches" VALUES(2,1,2,0,0,0,0,2,0,1795558866110,1795558866111,0,X'A1FEC47A646541B4ACCCCD233D61978E','s',X'3C469E9D6C5875D37A43F353D4F88E61FCF812C66EEE3457465A40B0DA4153E0','',NULL,'',X'7365616C6564');
INSERT INTO "batches" VALUES(3,1,1,0,0,0,0,2,0,1795558866110,0,0,X'49BD77F25E6D4DA7AD5D7D38F8AAE2F4','s',X'3C469E9D6C5875D37A43F353D4F88E61FCF812C66EEE3457465A40B0DA4153E0','',NULL,'',X'7365616C6564');
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
INSERT INTO "marks" VALUES(512,3,1,0,0,0,0,0,0,0,1,201,1,'Created',X'7B226964223A317D');
INSERT INTO "marks" VALUES(513,3,1,0,0,0,0,0,0,0,1,201,1,'Created',X'7B226964223A317D');
INSERT INTO "marks" VALUES(1024,3,1,0,0,0,0,0,0,0,1,201,1,'Created',X'7B226964223A317D');
INSERT INTO "marks" VALUES(1025,1,1,0,0,0,0,0,0,0,0,0,0,'',NULL);
CREATE TABLE queues (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    open       INTEGER NOT NULL,           -- its unfinished batches
    held       INTEGER NOT NULL,           -- its batches of any state; at 0 the row goes
    owner      INTEGER NOT NULL DEFAULT 0, -- the process that runs it, see settings 'process'; 0: none
    epoch      INTEGER NOT NULL DEFAULT 0, -- the fencing token of its newest claim
    not_before INTEGER NOT NULL DEFAULT 0  -- nothing to do before this moment
) STRICT;
INSERT INTO "queues" VALUES(1,'s',2,3,1,1,0);
CREATE TABLE requests (
    batch  INTEGER PRIMARY KEY,
    ids    BLOB,          -- batch.PackIDs; NULL: no request has one
    packed BLOB NOT NULL  -- batch.Pack
) STRICT;
INSERT INTO "requests" VALUES(1,X'0001300131',X'00013004504F53540870726F6475637473107B226E616D65223A224368616972227D013104504F53540870726F6475637473107B226E616D65223A224368616972227D');
INSERT INTO "requests" VALUES(2,X'0001300131',X'00013004504F53540870726F6475637473107B226E616D65223A224368616972227D013104504F53540870726F6475637473107B226E616D65223A224368616972227D');
INSERT INTO "requests" VALUES(3,X'0001300131',X'00013004504F53540870726F6475637473107B226E616D65223A224368616972227D013104504F53540870726F6475637473107B226E616D65223A224368616972227D');
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "settings" VALUES('process','1');
CREATE INDEX queues_open ON queues (id) WHERE open > 0;
CREATE UNIQUE INDEX batches_ticket ON batches (ticket);
CREATE INDEX batches_open ON batches (queue, id) WHERE state < 3;
CREATE INDEX batches_search ON batches (store, owner, state, id) WHERE deleted = 0;
CREATE INDEX batches_group ON batches (store, owner, group_id) WHERE group_id <> '' AND state < 3;
CREATE INDEX batches_dedup ON batches (store, owner, dedup_key, created_at) WHERE dedup_key IS NOT NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE state = 3;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('queues',3);
INSERT INTO "sqlite_sequence" VALUES('batches',3);
