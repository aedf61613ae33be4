-- +goose Up
-- When the row was written. A row from the future was written while a clock was ahead; its times
-- are moved back by the same amount. 0: the row was written before this column existed.
ALTER TABLE holds ADD COLUMN set_at bigint NOT NULL DEFAULT 0;
