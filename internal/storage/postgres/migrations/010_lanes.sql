-- +goose Up
-- The host of a callback's address, with its port.
-- +goose StatementBegin
CREATE FUNCTION sheaf_host(callback bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT lower(coalesce(substring(encode(callback, 'escape') FROM '://([^/?]*)'), ''))
$$;
-- +goose StatementEnd
