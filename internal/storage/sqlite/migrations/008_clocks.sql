-- When the row was written. A row from the future was written by a clock that was ahead: its
-- moments are moved back with this one. 0: the row was written before this column existed.
ALTER TABLE holds ADD COLUMN set_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN set_at INTEGER NOT NULL DEFAULT 0;

CREATE INDEX deliveries_set ON deliveries (set_at) WHERE state = 1;
