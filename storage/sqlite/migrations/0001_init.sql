-- Schema 1. A released migration is never edited: a change is a new file.
-- Moments are milliseconds since the Unix epoch; 0 stands for none.

CREATE TABLE queues (
  id         INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, so its epochs aren't either
  name       BLOB    NOT NULL UNIQUE,
  open       INTEGER NOT NULL, -- its unfinished batches
  owned      INTEGER NOT NULL, -- claimed by the process that has the file open
  epoch      INTEGER NOT NULL, -- of the newest claim
  not_before INTEGER NOT NULL, -- when it may run again, as its last release said
  idle_since INTEGER NOT NULL  -- when its last batch ended; meaningful while open = 0
) STRICT;

CREATE INDEX queues_open ON queues (owned) WHERE open > 0;
CREATE INDEX queues_idle ON queues (idle_since) WHERE open = 0;

-- A row is rewritten a few times in a batch's life, so what is large and never
-- changes is in requests, and what changes with every call in results.
CREATE TABLE batches (
  id              INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice; the order within a queue
  ticket          BLOB    NOT NULL UNIQUE,
  queue           INTEGER NOT NULL, -- queues.id; the queue may be purged before its ended batches
  store           TEXT    NOT NULL,
  owner           BLOB    NOT NULL,
  group_id        TEXT    NOT NULL, -- '': none
  dedup_key       BLOB,             -- NULL: none
  parallel        INTEGER NOT NULL,
  stop_on_failure INTEGER NOT NULL,
  total           INTEGER NOT NULL, -- its requests
  status          INTEGER NOT NULL, -- batch.Status
  completed       INTEGER NOT NULL, -- requests that ran to an end; counted once, when the batch ends
  stopped         INTEGER NOT NULL,
  deleted         INTEGER NOT NULL,
  created_at      INTEGER NOT NULL,
  started_at      INTEGER NOT NULL,
  ended_at        INTEGER NOT NULL,
  reason          TEXT    NOT NULL,
  credential      BLOB    NOT NULL -- sealed; empty once the batch has ended
) STRICT;

CREATE INDEX batches_open ON batches (queue) WHERE ended_at = 0;
CREATE INDEX batches_search ON batches (store, owner, status) WHERE deleted = 0;
CREATE INDEX batches_group ON batches (store, owner, group_id) WHERE group_id <> '' AND ended_at = 0;
CREATE INDEX batches_dedup ON batches (store, owner, dedup_key) WHERE dedup_key IS NOT NULL AND deleted = 0;
CREATE INDEX batches_ended ON batches (deleted, ended_at) WHERE ended_at > 0;

CREATE TABLE requests (
  batch  INTEGER PRIMARY KEY REFERENCES batches (id),
  ids    BLOB NOT NULL, -- batch.PackIDs; first, so that a status doesn't read past it
  packed BLOB NOT NULL  -- batch.Pack; empty once the batch has ended
) STRICT;

-- One row for each request that left a mark. The id is batch << 9 | index, so a
-- batch's rows lie side by side, in order, in one tree and with no other index:
-- the next mark of a batch is mostly on the page of the one before. body is last:
-- what counts rows doesn't read the pages that it overflows to.
CREATE TABLE results (
  id              INTEGER PRIMARY KEY,
  state           INTEGER NOT NULL, -- storage.MarkState
  status          INTEGER NOT NULL, -- batch.ResultStatus
  code            INTEGER NOT NULL,
  kind            INTEGER NOT NULL, -- batch.BodyKind
  attempts        INTEGER NOT NULL,
  retries         INTEGER NOT NULL,
  throttles       INTEGER NOT NULL,
  maybe_done      INTEGER NOT NULL,
  throttled_since INTEGER NOT NULL,
  not_before      INTEGER NOT NULL,
  started_at      INTEGER NOT NULL,
  ended_at        INTEGER NOT NULL,
  line            TEXT    NOT NULL,
  body            BLOB    NOT NULL
) STRICT;

CREATE TABLE settings (
  name  TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
