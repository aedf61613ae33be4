-- What was recorded of running batches and is not in its place in marks yet: one row for
-- each group of calls that was committed together, in the order of the commits. See
-- journal.go for its form.
CREATE TABLE journal (
    id    INTEGER PRIMARY KEY,
    marks BLOB NOT NULL
) STRICT;
