-- +goose Up
-- A request is in doubt if it failed and it is unknown whether the upstream carried it out. Versions
-- before these steps recorded only the message. storage.Mark.InDoubt has the same rule.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION sheaf_in_doubt(mark marks) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT mark.state = 3 AND mark.status = 2
        AND (mark.in_doubt OR mark.code IN (502, 504) AND position('it is not known whether'::bytea IN mark.line) > 0)
$$;
-- +goose StatementEnd

-- +goose Down
-- Only forward: an older version refuses a newer schema.
SELECT 1;
