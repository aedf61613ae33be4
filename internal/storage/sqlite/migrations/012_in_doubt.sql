-- A request is in doubt if it failed, and whether the upstream carried it out is unknown. Bit 1
-- of maybe_done says so; what was recorded before this step has only the message. The same rule
-- is in storage.Mark.InDoubt.
ALTER TABLE marks ADD COLUMN in_doubt INTEGER NOT NULL GENERATED ALWAYS AS (
    state = 3 AND status = 2 AND (maybe_done & 2 <> 0 OR code IN (502, 504) AND instr(line, 'it is not known whether') > 0)
) VIRTUAL;

-- Of its requests, when it has ended; -1: not counted, as it ended before this step.
ALTER TABLE batches ADD COLUMN in_doubt INTEGER NOT NULL DEFAULT -1;
