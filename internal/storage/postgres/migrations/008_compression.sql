-- +goose Up

-- Answers are compressed by lz4 where the server has it: PostgreSQL's own method takes ten times
-- as long, which large answers make felt. Elsewhere they are stored as they are.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        EXECUTE 'ALTER TABLE marks ALTER COLUMN body SET COMPRESSION lz4';
    ELSE
        ALTER TABLE marks ALTER COLUMN body SET STORAGE EXTERNAL;
    END IF;
END
$$;
-- +goose StatementEnd
