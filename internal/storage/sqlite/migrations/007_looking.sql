CREATE INDEX batches_failed ON batches (store, owner, id) WHERE failed > 0 AND deleted = 0;
CREATE INDEX batches_lineage ON batches (retry_of) WHERE retry_of IS NOT NULL AND deleted = 0;
ALTER TABLE batches ADD COLUMN trace TEXT NOT NULL DEFAULT ''; -- what a trace goes on from; empty: there is none
