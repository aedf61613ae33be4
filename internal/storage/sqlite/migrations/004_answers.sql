-- Of an answer, beside its body: batch.PackHeaders; NULL: none, or stored before this step.
ALTER TABLE marks ADD COLUMN headers BLOB;
