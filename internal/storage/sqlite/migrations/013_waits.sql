-- waits_for is storage.WaitReason, and waits_since is when the queue was first released for it.
ALTER TABLE queues ADD COLUMN waits_for INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN waits_since INTEGER NOT NULL DEFAULT 0;

-- Upstreams that are unavailable. They receive only probes.
CREATE TABLE outages (
    upstream TEXT PRIMARY KEY,
    since    INTEGER NOT NULL,
    probes   INTEGER NOT NULL, -- how many were sent
    probe_at INTEGER NOT NULL  -- when the next one may be sent
) STRICT, WITHOUT ROWID;
