-- All statements of the package, by name. $N is the N-th argument.
--
-- Locks are taken in this order: queues, owners, batches. A create locks a queue, but nothing that
-- a running batch needs. Results lock owners, but no queue.

-- name: sync_commit
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';

-- name: begin_read
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: commit
COMMIT;

-- name: seals
SELECT DISTINCT substr(credential, 1, $1::int) FROM batches WHERE ended_at = 0 AND credential IS NOT NULL;

-- name: setting
SELECT value FROM settings WHERE name = $1;

-- name: put_setting
INSERT INTO settings (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: init_setting
INSERT INTO settings (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = CASE WHEN settings.value = '' THEN excluded.value ELSE settings.value END
RETURNING value;

-- name: register_node
INSERT INTO nodes (id, lock, renewed_at, started_at, name) VALUES ($1, $2, sheaf_now(), sheaf_now(), $3)
RETURNING sheaf_now();

-- name: ping
SELECT 1;

-- name: renew_node
UPDATE nodes SET renewals = renewals + 1, renewed_at = sheaf_now() WHERE id = $1
RETURNING sheaf_now();

-- name: lock_node
UPDATE nodes SET lock = $2, named = $3 WHERE id = $1 AND named < $3 RETURNING id;

-- name: remove_node
DELETE FROM nodes WHERE id = $1;

-- name: other_nodes
SELECT id, lock, renewals FROM nodes WHERE id <> $1;

-- name: lock_is_free
SELECT pg_try_advisory_xact_lock_shared($1);

-- name: bury_silent
DELETE FROM nodes WHERE id = $1 AND renewals = $2 RETURNING name;

-- name: bury_unlocked
DELETE FROM nodes WHERE id = $1 AND lock = $2 AND pg_try_advisory_xact_lock_shared(lock) RETURNING name;

-- name: end_sessions
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = $1 AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid();

-- name: notify
SELECT pg_notify('sheaf', $1);

-- name: batch_by_ticket
SELECT id, queue, store, owner FROM batches WHERE ticket = $1 AND NOT deleted;

-- name: date_dedup_key
-- A batch from the future was created while a clock was ahead. It counts as created now.
UPDATE batches SET created_at = sheaf_now()
WHERE store = $1 AND owner = $2 AND dedup_key = $3 AND created_at > sheaf_now();

-- name: free_dedup_key
UPDATE batches SET dedup_key = NULL
WHERE store = $1 AND owner = $2 AND dedup_key = $3 AND created_at <= sheaf_now() - $4::bigint;

-- name: enter_queue
INSERT INTO queues (name, open, held) SELECT $1, 0, 0 WHERE NOT EXISTS (SELECT FROM queues WHERE name = $1)
ON CONFLICT DO NOTHING;

-- name: lock_queue_named
SELECT id FROM queues WHERE name = $1 FOR UPDATE;

-- name: insert_batch
WITH here AS MATERIALIZED (
    SELECT id, open, held, bytes FROM queues WHERE name = $1
), same AS MATERIALIZED (
    SELECT ticket, queue FROM batches WHERE ticket = $2 AND store = $3 AND owner = $4 AND NOT deleted
), twin AS MATERIALIZED (
    SELECT ticket, queue FROM batches WHERE store = $3 AND owner = $4 AND dedup_key = $5
    UNION ALL
    SELECT ticket, queue FROM batches WHERE store = $3 AND owner = $4 AND retry_of = $15::uuid AND (ended_at = 0 OR $18) AND NOT deleted
    LIMIT 1
), made AS (
    INSERT INTO batches (queue, parallel, stop_on_failure, total, created_at, ticket, store, owner, group_id, dedup_key, credential, bytes, retry_of, callback, trace, options)
    SELECT here.id, $6, $7, $8, sheaf_now(), $2, $3, $4, $9, $5, $10, octet_length($13::bytea), $15::uuid, $16, $17, $19 FROM here
    WHERE NOT EXISTS (SELECT FROM same) AND NOT EXISTS (SELECT FROM twin) AND ($11::integer = 0 OR here.open < $11)
        AND ($14::bigint = 0 OR here.bytes + octet_length($13::bytea) <= $14)
    ON CONFLICT DO NOTHING
    RETURNING id, queue
), wrote AS (
    INSERT INTO requests (batch, ids, packed) SELECT id, $12, $13::bytea FROM made
), grown AS (
    UPDATE queues SET open = open + 1, held = held + 1, bytes = bytes + octet_length($13::bytea) FROM made WHERE queues.id = made.queue
), owned AS (
    INSERT INTO owners (queue, node, epoch, not_before) SELECT made.queue, NULL, 0, 0 FROM made JOIN here ON here.held = 0
    ON CONFLICT DO NOTHING
)
SELECT here.id, here.open, here.held, here.bytes, (SELECT id FROM made), (SELECT queue FROM same), (SELECT ticket FROM twin), (SELECT queue FROM twin)
FROM here;

-- name: leave_queue_empty
WITH gone AS (DELETE FROM queues WHERE id = $1 AND held = 0 AND NOT paused RETURNING id)
DELETE FROM owners WHERE queue IN (SELECT id FROM gone);

-- name: status
SELECT id, store, owner, group_id, total, completed, created_at, started_at, ended_at, reason,
    (SELECT ids FROM requests WHERE batch = batches.id),
    m.done, CASE WHEN ended_at <> 0 THEN greatest(batches.failed, 0) ELSE m.failed END,
    CASE WHEN ended_at = 0 THEN m.in_doubt ELSE CASE WHEN batches.in_doubt >= 0 OR batches.failed = 0 THEN greatest(batches.in_doubt, 0) ELSE (SELECT count(*) FROM marks WHERE marks.batch = batches.id AND sheaf_in_doubt(marks)) END END,
    retry_of, ended_at = 0 AND NOT stopped AND (paused OR EXISTS (SELECT FROM queues WHERE queues.id = batches.queue AND queues.paused)),
    CASE WHEN ended_at = 0 AND quarantined_at = 0 THEN coalesce((SELECT not_before FROM owners WHERE owners.queue = batches.queue), 0) ELSE 0 END, quarantined_at,
    CASE WHEN ended_at = 0 AND quarantined_at = 0 THEN coalesce((SELECT waits_for FROM owners WHERE owners.queue = batches.queue), 0) ELSE 0 END,
    CASE WHEN ended_at = 0 AND quarantined_at = 0 THEN coalesce((SELECT waits_since FROM owners WHERE owners.queue = batches.queue), 0) ELSE 0 END
FROM batches CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status <> 3) AS done, count(*) FILTER (WHERE status = 2) AS failed, count(*) FILTER (WHERE sheaf_in_doubt(marks)) AS in_doubt
    FROM marks WHERE batch = batches.id AND state = 3 AND batches.started_at <> 0 AND batches.ended_at = 0
) AS m
WHERE ticket = $1 AND NOT deleted;

-- name: done
SELECT index, status, sheaf_in_doubt(marks) FROM marks WHERE state = 3 AND batch = (SELECT id FROM batches WHERE ticket = $1 AND NOT deleted) ORDER BY index;

-- name: results
SELECT index, status, code, kind, line, body, headers, tries, in_doubt FROM (
    SELECT index, status, code, kind, line, body, headers, tries, sheaf_in_doubt(marks) AS in_doubt,
        sum(coalesce(octet_length(body), 0)) OVER (ORDER BY index) AS bytes, row_number() OVER (ORDER BY index) AS nth
    FROM marks
    WHERE state = 3 AND index >= $2 AND batch = $1
) AS page WHERE bytes <= $3 OR nth = 1 ORDER BY index;

-- name: results_by_ticket
SELECT index, status, code, kind, line, body, headers, tries, in_doubt FROM (
    SELECT index, status, code, kind, line, body, headers, tries, sheaf_in_doubt(marks) AS in_doubt,
        sum(coalesce(octet_length(body), 0)) OVER (ORDER BY index) AS bytes, row_number() OVER (ORDER BY index) AS nth
    FROM marks
    WHERE state = 3 AND batch = (SELECT id FROM batches WHERE ticket = $1 AND NOT deleted)
) AS page WHERE bytes <= $2 OR nth = 1 ORDER BY index;

-- name: is_readable
SELECT 1 FROM batches WHERE id = $1 AND NOT deleted;

-- name: find_any
(SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at = 0 AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4)
UNION ALL
(SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at <> 0 AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4)
ORDER BY id DESC LIMIT $4;

-- name: find_open
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at = 0 AND NOT deleted AND id > $3
    AND (NOT $5::boolean OR $6::boolean = (started_at <> 0 AND EXISTS (SELECT FROM marks WHERE batch = batches.id AND state = 3 AND status <> 3)))
ORDER BY id LIMIT $4;

-- name: find_unfinished
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at = 0 AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: find_ended
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at <> 0 AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: find_ended_oldest
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND ended_at <> 0 AND NOT deleted AND id > $3 ORDER BY id LIMIT $4;

-- name: find_group
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND group_id = $5 AND group_id <> '' AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: find_failed
SELECT id FROM batches WHERE store = $1 AND owner = $2 AND failed > 0 AND NOT deleted AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: newest_batch
SELECT coalesce(max(id), 0) FROM batches;

-- name: created_until
SELECT id, created_at FROM batches WHERE store = $1 AND owner = $2 AND ended_at <> 0 AND NOT deleted AND id <= $3 ORDER BY id DESC LIMIT 1;

-- name: summaries
SELECT id, ticket, group_id, total, CASE WHEN ended_at <> 0 THEN completed ELSE m.done END, CASE WHEN ended_at <> 0 THEN greatest(batches.failed, 0) ELSE m.failed END,
    CASE WHEN ended_at = 0 THEN m.in_doubt ELSE CASE WHEN batches.in_doubt >= 0 OR batches.failed = 0 THEN greatest(batches.in_doubt, 0) ELSE (SELECT count(*) FROM marks WHERE marks.batch = batches.id AND sheaf_in_doubt(marks)) END END,
    created_at, started_at, ended_at, retry_of, paused AND ended_at = 0 AND NOT stopped,
    EXISTS (SELECT FROM batches AS again WHERE again.retry_of = batches.ticket AND NOT again.deleted),
    $2::integer = 0 OR EXISTS (SELECT FROM marks WHERE batch = batches.id AND state = 3 AND code = $2 AND status <> 3), quarantined_at <> 0
FROM batches CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status <> 3) AS done, count(*) FILTER (WHERE status = 2) AS failed, count(*) FILTER (WHERE sheaf_in_doubt(marks)) AS in_doubt
    FROM marks WHERE batch = batches.id AND state = 3 AND batches.started_at <> 0 AND batches.ended_at = 0
) AS m
WHERE id = ANY ($1::bigint[]) AND NOT deleted;

-- name: marks_alone
SELECT index, state, tries, in_doubt, not_before, status, code, kind, line FROM marks WHERE batch = $1 ORDER BY index;

-- name: packed_of
SELECT batch, packed FROM requests WHERE batch = ANY ($1::bigint[]);

-- name: queue_state
SELECT open, held, paused, coalesce((SELECT not_before FROM owners WHERE owners.queue = queues.id), 0),
    coalesce((SELECT waits_for FROM owners WHERE owners.queue = queues.id), 0), coalesce((SELECT waits_since FROM owners WHERE owners.queue = queues.id), 0),
    (SELECT count(*) FROM batches WHERE batches.queue = queues.id AND quarantined_at <> 0)
FROM queues WHERE name = $1;

-- name: live_nodes
SELECT id, name, started_at, renewed_at,
    (SELECT count(*) FROM owners JOIN queues ON queues.id = owners.queue WHERE owners.node = nodes.id AND queues.open > 0)
FROM nodes ORDER BY started_at, id;

-- name: count_queues
SELECT count(*), count(*) FILTER (WHERE EXISTS (SELECT FROM nodes WHERE nodes.id = owners.node)), coalesce(sum(open), 0)
FROM queues JOIN owners ON owners.queue = queues.id WHERE open > 0;

-- name: loads
SELECT queues.name, open, EXISTS (SELECT FROM nodes WHERE nodes.id = owners.node), paused, not_before, waits_for, waits_since,
    coalesce((SELECT created_at FROM batches WHERE batches.queue = queues.id AND ended_at = 0 AND quarantined_at = 0 ORDER BY batches.id LIMIT 1), 0)
FROM queues JOIN owners ON owners.queue = queues.id WHERE open > 0 ORDER BY open DESC, queues.id LIMIT $1;

-- name: count_quarantined
SELECT count(*) FROM batches WHERE quarantined_at <> 0;

-- name: database_size
SELECT pg_database_size(current_database());

-- name: unfinished
SELECT coalesce(sum(open), 0) FROM queues WHERE name >= $1 AND name < $2;

-- name: requests_of
SELECT parallel, stop_on_failure, options, packed FROM batches JOIN requests ON requests.batch = batches.id WHERE batches.id = $1 AND NOT deleted;

-- name: news
SELECT id, ended_at <> 0, completed, m.done, m.results,
    CASE WHEN ended_at = 0 AND quarantined_at = 0 THEN coalesce((SELECT waits_for FROM owners WHERE owners.queue = batches.queue), 0) ELSE 0 END
FROM batches
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status <> 3) AS done, count(*) AS results FROM marks
    WHERE batch = batches.id AND state = 3 AND batches.started_at <> 0
) AS m
WHERE id = ANY ($1::bigint[]) AND NOT deleted;

-- name: open_by_ticket
SELECT id, queue FROM batches
WHERE ticket = $1 AND store = $2 AND owner = $3 AND ($4 = ''::bytea OR group_id = $4) AND ended_at = 0 AND NOT stopped AND NOT deleted;

-- name: open_of_group
SELECT id, queue FROM batches
WHERE store = $1 AND owner = $2 AND group_id = $3 AND group_id <> '' AND ended_at = 0 AND NOT stopped AND NOT deleted;

-- name: lock_queues
SELECT id FROM queues WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE;

-- name: stop
WITH hit AS MATERIALIZED (
    SELECT id, queue, started_at, callback, store FROM batches WHERE id = ANY($1::bigint[]) AND ended_at = 0 AND NOT stopped AND NOT deleted
), delivered AS (
    INSERT INTO deliveries (batch, state, next_at, set_at, store, host) SELECT id, 1, sheaf_now(), sheaf_now(), store, sheaf_host(callback) FROM hit WHERE callback <> '' AND started_at = 0 ON CONFLICT DO NOTHING
), told AS (
    UPDATE batches SET stopped = true,
        ended_at = CASE WHEN hit.started_at = 0 THEN sheaf_now() ELSE 0 END,
        failed = CASE WHEN hit.started_at = 0 THEN 0 ELSE failed END,
        in_doubt = CASE WHEN hit.started_at = 0 THEN 0 ELSE in_doubt END,
        credential = CASE WHEN hit.started_at = 0 THEN NULL ELSE credential END
    FROM hit WHERE batches.id = hit.id
), shrunk AS (
    UPDATE queues SET open = open - n
    FROM (SELECT queue, count(*) AS n FROM hit WHERE started_at = 0 GROUP BY queue) AS ended WHERE queues.id = ended.queue
), woken AS (
    UPDATE owners SET not_before = 0 FROM hit WHERE owners.queue = hit.queue AND hit.started_at <> 0 AND not_before <> 0
)
SELECT hit.queue, hit.started_at <> 0, owners.node FROM hit JOIN owners ON owners.queue = hit.queue;

-- name: pause_batch
WITH hit AS (
    UPDATE batches SET paused = $2 WHERE id = $1 AND ended_at = 0 AND NOT stopped AND paused <> $2 RETURNING queue
), woken AS (
    UPDATE owners SET not_before = 0 FROM hit WHERE owners.queue = hit.queue AND NOT $2 AND not_before <> 0
)
SELECT hit.queue, true, (SELECT node FROM owners WHERE owners.queue = hit.queue) FROM hit;

-- name: pause_queue
WITH hit AS (
    UPDATE queues SET paused = $2 WHERE name = $1 AND paused <> $2 RETURNING id AS queue
), woken AS (
    UPDATE owners SET not_before = 0 FROM hit WHERE owners.queue = hit.queue AND NOT $2 AND not_before <> 0
)
SELECT hit.queue, true, (SELECT node FROM owners WHERE owners.queue = hit.queue) FROM hit;

-- name: grouped
SELECT ended_at <> 0, total, CASE WHEN ended_at <> 0 THEN completed ELSE m.done END,
    CASE WHEN ended_at <> 0 AND batches.failed >= 0 THEN batches.failed ELSE m.failed END, m.skipped,
    CASE WHEN ended_at = 0 OR batches.failed < 0 THEN m.in_doubt ELSE CASE WHEN batches.in_doubt >= 0 OR batches.failed = 0 THEN greatest(batches.in_doubt, 0) ELSE (SELECT count(*) FROM marks WHERE marks.batch = batches.id AND sheaf_in_doubt(marks)) END END
FROM batches CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status <> 3) AS done, count(*) FILTER (WHERE status = 2) AS failed, count(*) FILTER (WHERE status = 3) AS skipped,
        count(*) FILTER (WHERE sheaf_in_doubt(marks)) AS in_doubt
    FROM marks WHERE batch = batches.id AND state = 3 AND batches.started_at <> 0 AND (batches.ended_at = 0 OR batches.failed < 0)
) AS m
WHERE store = $1 AND owner = $2 AND group_id = $3 AND group_id <> '' AND NOT deleted;

-- name: delete
WITH hit AS MATERIALIZED (
    SELECT id, queue, started_at, ended_at FROM batches WHERE id = $1 AND NOT deleted
), told AS (
    UPDATE batches SET stopped = true, deleted = true, dedup_key = NULL,
        ended_at = CASE WHEN hit.ended_at <> 0 OR hit.started_at = 0 THEN 1 ELSE 0 END, -- nobody can read it any more, so it is purged at once
        credential = CASE WHEN hit.started_at = 0 THEN NULL ELSE credential END
    FROM hit WHERE batches.id = hit.id
), shrunk AS (
    UPDATE queues SET open = open - 1 FROM hit WHERE queues.id = hit.queue AND hit.started_at = 0 AND hit.ended_at = 0
), woken AS (
    UPDATE owners SET not_before = 0
    FROM hit WHERE owners.queue = hit.queue AND hit.started_at <> 0 AND hit.ended_at = 0 AND not_before <> 0
)
SELECT hit.queue, hit.started_at <> 0 AND hit.ended_at = 0, owners.node FROM hit JOIN owners ON owners.queue = hit.queue;

-- name: runnable
SELECT queues.id, owners.not_before, owners.waits_for FROM queues JOIN owners ON owners.queue = queues.id
WHERE queues.id > $1 AND queues.open > 0
    AND (owners.node IS NULL OR NOT EXISTS (SELECT FROM nodes WHERE nodes.id = owners.node))
ORDER BY queues.id LIMIT $2;

-- name: told
SELECT DISTINCT batches.queue FROM batches JOIN owners ON owners.queue = batches.queue
WHERE batches.ended_at = 0 AND batches.stopped AND owners.node = $1
UNION
SELECT batches.queue FROM batches JOIN owners ON owners.queue = batches.queue
WHERE batches.ended_at = 0 AND batches.quarantined_at = 0 AND batches.paused AND owners.node = $1
UNION
SELECT queues.id FROM queues JOIN owners ON owners.queue = queues.id
WHERE queues.paused AND owners.node = $1;

-- name: peek
SELECT owners.epoch, owners.node IS NULL OR owners.node = $2 OR NOT EXISTS (SELECT FROM nodes WHERE nodes.id = owners.node),
    owners.node IS DISTINCT FROM $2
FROM queues JOIN owners ON owners.queue = queues.id
WHERE queues.id = $1 AND queues.open > 0;

-- name: own_queue
UPDATE owners SET node = $2, epoch = $4, not_before = 0
WHERE queue = $1 AND epoch = $3
    AND (node IS NULL OR node = $2 OR NOT EXISTS (SELECT FROM nodes WHERE nodes.id = owners.node))
    AND EXISTS (SELECT FROM nodes WHERE nodes.id = $2)
    AND EXISTS (SELECT FROM batches WHERE batches.queue = $1 AND ended_at = 0 AND quarantined_at = 0)
RETURNING epoch;

-- name: start_next
-- $4: the node takes over the queue. A claim that was not ended then counts as ended by a death.
UPDATE batches SET started_at = CASE WHEN started_at = 0 THEN sheaf_now() ELSE started_at END,
    claims = claims + CASE WHEN claimed AND NOT $4 THEN 0 ELSE 1 END, claimed = true
WHERE id = (SELECT id FROM batches WHERE queue = $1 AND ended_at = 0 AND quarantined_at = 0 ORDER BY id LIMIT 1)
    AND EXISTS (SELECT FROM owners WHERE owners.queue = $1 AND epoch = $2)
    AND NOT $3
RETURNING id, ticket, store, owner, group_id, parallel, stop_on_failure, stopped, deleted, created_at, credential,
    NOT stopped AND (paused OR EXISTS (SELECT FROM queues WHERE queues.id = $1 AND queues.paused)), started_at, trace,
    total, EXISTS (SELECT FROM marks WHERE marks.batch = batches.id), claims, (SELECT waits_for FROM owners WHERE owners.queue = $1), options;

-- name: next_requests
-- Large requests are left to load_requests.
SELECT octet_length(packed), CASE WHEN octet_length(packed) <= $4 THEN packed ELSE substr(packed, 1, $5) END FROM requests
WHERE batch = (SELECT id FROM batches WHERE queue = $1 AND ended_at = 0 AND quarantined_at = 0 ORDER BY id LIMIT 1)
    AND EXISTS (SELECT FROM owners WHERE owners.queue = $1 AND epoch = $2)
    AND NOT $3;

-- name: load_requests
SELECT (SELECT packed FROM requests WHERE batch = batches.id) FROM batches WHERE id = $1;

-- name: leave_batch
UPDATE batches SET claims = greatest(claims - 1, 0), claimed = false
WHERE id = $1 AND claimed AND ended_at = 0 AND EXISTS (SELECT FROM owners WHERE owners.queue = $2 AND epoch = $3);

-- name: end_wait
UPDATE owners SET waits_for = 0, waits_since = 0 WHERE queue = $1 AND epoch = $2 AND waits_for <> 0;

-- name: progressed
UPDATE batches SET claims = 1 WHERE id = $1 AND claims > 1 AND EXISTS (SELECT FROM owners WHERE owners.queue = $2 AND epoch = $3);

-- name: quarantine
WITH hit AS (
    UPDATE batches SET quarantined_at = sheaf_now(), reason = $4, claims = 0, claimed = false
    WHERE id = $1 AND ended_at = 0 AND quarantined_at = 0 AND EXISTS (SELECT FROM owners WHERE owners.queue = $2 AND epoch = $3)
    RETURNING queue
)
UPDATE queues SET open = open - 1 FROM hit WHERE queues.id = hit.queue;

-- name: unquarantine
WITH hit AS (
    UPDATE batches SET quarantined_at = 0, reason = '' WHERE id = $1 AND quarantined_at <> 0 RETURNING queue
), woken AS (
    UPDATE owners SET not_before = 0 FROM hit WHERE owners.queue = hit.queue AND not_before <> 0
)
UPDATE queues SET open = open + 1 FROM hit WHERE queues.id = hit.queue;

-- name: stop_quarantined
UPDATE batches SET stopped = true, reason = convert_to($2, 'UTF8') || reason WHERE id = $1 AND quarantined_at <> 0;

-- name: quarantined
SELECT batches.id, ticket, store, queues.name, group_id, total, created_at, quarantined_at, reason
FROM batches JOIN queues ON queues.id = batches.queue WHERE quarantined_at <> 0 AND batches.id > $1 ORDER BY batches.id LIMIT $2;

-- name: quarantined_ticket
SELECT id, queue FROM batches WHERE ticket = $1 AND quarantined_at <> 0;

-- name: end_begun_of
UPDATE marks SET state = 3, status = $2, code = $3, kind = $4, line = $5, body = $6, headers = NULL, in_doubt = true
FROM batches WHERE batches.id = ANY ($1::bigint[]) AND quarantined_at <> 0 AND stopped AND marks.batch = batches.id AND marks.state = 1;

-- name: end_waiting_of
UPDATE marks SET state = 3
FROM batches WHERE batches.id = ANY ($1::bigint[]) AND quarantined_at <> 0 AND stopped AND marks.batch = batches.id AND marks.state = 2 AND status <> 0;

-- name: end_quarantined
WITH results AS (
    SELECT batches.id, coalesce(sum(octet_length(body)) FILTER (WHERE state = 3), 0) AS n
    FROM batches LEFT JOIN marks ON marks.batch = batches.id
    WHERE batches.id = ANY ($1::bigint[]) AND quarantined_at <> 0 AND stopped GROUP BY batches.id
), ended AS (
    UPDATE batches SET
        ended_at = CASE WHEN deleted THEN 1 ELSE sheaf_now() END,
        quarantined_at = 0,
        completed = (SELECT count(*) FROM marks WHERE batch = batches.id AND state = 3 AND status <> 3),
        failed = (SELECT count(*) FROM marks WHERE batch = batches.id AND state = 3 AND status = 2),
        in_doubt = (SELECT count(*) FROM marks WHERE batch = batches.id AND sheaf_in_doubt(marks)),
        bytes = bytes + results.n,
        credential = NULL
    FROM results WHERE batches.id = results.id RETURNING batches.id, queue, results.n, callback, deleted
), told AS (
    INSERT INTO deliveries (batch, state, next_at) SELECT id, 1, sheaf_now() FROM ended WHERE callback <> '' AND NOT deleted ON CONFLICT DO NOTHING
)
UPDATE queues SET bytes = bytes + more.n FROM (SELECT queue, sum(n) AS n FROM ended GROUP BY queue) AS more WHERE queues.id = more.queue;

-- name: renew_claim
UPDATE owners SET epoch = $3::bigint + 1 WHERE queue = $1 AND node = $2 AND epoch IN ($3, $3::bigint + 1) RETURNING epoch;

-- name: newest_epoch
SELECT epoch FROM owners WHERE queue = $1 FOR UPDATE;

-- name: record
WITH claim AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS c (batch, queue, epoch, nth)
), owned AS MATERIALIZED (
    SELECT claim.batch, claim.nth FROM claim JOIN owners ON owners.queue = claim.queue AND owners.epoch = claim.epoch FOR SHARE OF owners
), running AS MATERIALIZED (
    SELECT owned.nth, stopped, deleted, ended_at,
        NOT stopped AND (paused OR EXISTS (SELECT FROM queues WHERE queues.id = batches.queue AND queues.paused)) AS paused
    FROM owned JOIN batches ON batches.id = owned.batch
), put AS (
    INSERT INTO marks (batch, index, state, tries, in_doubt, not_before, status, code, kind, line, body, headers)
    SELECT batch, index, state, tries, in_doubt, not_before, status, code, kind, line, body, headers
    FROM unnest($4::bigint[], $5::bigint[], $6::smallint[], $7::smallint[], $8::bytea[], $9::bigint[], $10::smallint[],
        $11::integer[], $12::smallint[], $13::bytea[], $14::bytea[], $15::bytea[], $16::boolean[])
        AS m (nth, batch, index, state, tries, not_before, status, code, kind, line, body, headers, in_doubt)
    WHERE nth = ANY (ARRAY(SELECT nth FROM running WHERE ended_at = 0))
    ON CONFLICT (batch, index) DO UPDATE SET
        state = excluded.state, tries = excluded.tries, in_doubt = excluded.in_doubt, not_before = excluded.not_before,
        -- A mark without a status has no answer, so the stored answer stays.
        status = CASE WHEN excluded.status = 0 THEN marks.status ELSE excluded.status END,
        code = CASE WHEN excluded.status = 0 THEN marks.code ELSE excluded.code END,
        kind = CASE WHEN excluded.status = 0 THEN marks.kind ELSE excluded.kind END,
        line = CASE WHEN excluded.status = 0 THEN marks.line ELSE excluded.line END,
        body = CASE WHEN excluded.status = 0 THEN marks.body ELSE excluded.body END,
        headers = CASE WHEN excluded.status = 0 THEN marks.headers ELSE excluded.headers END
    WHERE marks.state <> 3
)
SELECT nth, stopped, deleted, paused FROM running;

-- name: asked
SELECT stopped, deleted, NOT stopped AND (paused OR EXISTS (SELECT FROM queues WHERE queues.id = batches.queue AND queues.paused)) FROM batches
WHERE id = $1 AND EXISTS (SELECT FROM owners WHERE owners.queue = $2 AND epoch = $3);

-- name: end_batch
WITH results AS (
    SELECT coalesce(sum(octet_length(body)), 0) AS n FROM marks WHERE batch = $1 AND state = 3
), ended AS (
    UPDATE batches SET
        ended_at = CASE WHEN deleted THEN 1 ELSE sheaf_now() END, -- nobody can read it any more, so it is purged at once
        completed = (SELECT count(*) FROM marks WHERE batch = $1 AND state = 3 AND status <> 3),
        failed = (SELECT count(*) FROM marks WHERE batch = $1 AND state = 3 AND status = 2),
        in_doubt = (SELECT count(*) FROM marks WHERE batch = $1 AND sheaf_in_doubt(marks)),
        bytes = bytes + (SELECT n FROM results),
        reason = $4,
        credential = NULL
    WHERE id = $1 AND ended_at = 0 AND EXISTS (SELECT FROM owners WHERE owners.queue = $2 AND epoch = $3)
    RETURNING id, queue, callback, store, deleted
), told AS (
    INSERT INTO deliveries (batch, state, next_at, set_at, store, host) SELECT id, 1, sheaf_now(), sheaf_now(), store, sheaf_host(callback) FROM ended WHERE callback <> '' AND NOT deleted ON CONFLICT DO NOTHING
)
UPDATE queues SET open = open - 1, bytes = bytes + (SELECT n FROM results) FROM ended WHERE queues.id = ended.queue;

-- name: leave_queue
UPDATE owners SET node = NULL,
    not_before = CASE
        WHEN EXISTS (SELECT FROM batches WHERE batches.id = $5 AND ended_at = 0 AND stopped) THEN 0
        WHEN $6 AND NOT EXISTS (SELECT FROM batches WHERE batches.id = $5 AND paused) AND NOT EXISTS (SELECT FROM queues WHERE queues.id = $1 AND paused) THEN 0
        WHEN $7::smallint = 2 AND EXISTS (SELECT FROM batches WHERE batches.id = $5 AND credential IS DISTINCT FROM $8::bytea) THEN 0
        ELSE $3::bigint END,
    waits_for = CASE WHEN $7::smallint = 2 AND EXISTS (SELECT FROM batches WHERE batches.id = $5 AND credential IS DISTINCT FROM $8::bytea) THEN 0 ELSE $7::smallint END,
    waits_since = CASE $7::smallint WHEN waits_for THEN waits_since ELSE sheaf_now() END
WHERE queue = $1 AND epoch = $2 AND ($4 OR NOT EXISTS (SELECT FROM batches WHERE batches.queue = $1 AND ended_at = 0 AND quarantined_at = 0));

-- name: lock_open_queues
SELECT id FROM queues WHERE open > 0 ORDER BY id FOR UPDATE;

-- name: end_begun
UPDATE marks SET state = 3, status = $1, code = $2, kind = $3, line = $4, body = $5, headers = NULL, in_doubt = true
FROM batches WHERE batches.ended_at = 0 AND marks.batch = batches.id AND marks.state = 1;

-- name: end_waiting
UPDATE marks SET state = 3
FROM batches WHERE batches.ended_at = 0 AND marks.batch = batches.id AND marks.state = 2 AND status <> 0;

-- name: end_open
WITH results AS (
    SELECT batches.id, coalesce(sum(octet_length(body)) FILTER (WHERE state = 3), 0) AS n
    FROM batches LEFT JOIN marks ON marks.batch = batches.id WHERE ended_at = 0 GROUP BY batches.id
), ended AS (
    UPDATE batches SET
        ended_at = CASE WHEN deleted THEN 1 ELSE sheaf_now() END,
        completed = (SELECT count(*) FROM marks WHERE batch = batches.id AND state = 3 AND status <> 3),
        failed = (SELECT count(*) FROM marks WHERE batch = batches.id AND state = 3 AND status = 2),
        in_doubt = (SELECT count(*) FROM marks WHERE batch = batches.id AND sheaf_in_doubt(marks)),
        bytes = bytes + results.n,
        reason = $1,
        quarantined_at = 0,
        credential = NULL
    FROM results WHERE batches.id = results.id RETURNING batches.id, queue, results.n, callback, store, deleted
), told AS (
    INSERT INTO deliveries (batch, state, next_at, set_at, store, host) SELECT id, 1, sheaf_now(), sheaf_now(), store, sheaf_host(callback) FROM ended WHERE callback <> '' AND NOT deleted ON CONFLICT DO NOTHING
), grown AS (
    UPDATE queues SET bytes = bytes + more.n FROM (SELECT queue, sum(n) AS n FROM ended GROUP BY queue) AS more WHERE queues.id = more.queue
)
SELECT id FROM ended;

-- name: close_queues
WITH closed AS (UPDATE queues SET open = 0 WHERE open > 0 RETURNING id)
UPDATE owners SET node = NULL, not_before = 0 FROM closed WHERE owners.queue = closed.id;

-- name: lock_due_queues
-- In a subquery, sheaf_now is evaluated once, so that the index can be used.
SELECT id FROM queues
WHERE id IN (SELECT queue FROM batches WHERE ended_at <> 0 AND ended_at <= (SELECT sheaf_now()) - $1::bigint ORDER BY ended_at LIMIT $2)
ORDER BY id FOR UPDATE SKIP LOCKED;

-- name: date_ended
-- A batch from the future ended while a clock was ahead. It counts as ended now.
UPDATE batches SET ended_at = sheaf_now() WHERE id IN (
    SELECT id FROM batches WHERE ended_at <> 0 AND ended_at > (SELECT sheaf_now()) LIMIT $1 FOR UPDATE SKIP LOCKED
);

-- name: purge
WITH due AS MATERIALIZED (
    SELECT id, queue FROM batches WHERE ended_at <> 0 AND ended_at <= (SELECT sheaf_now()) - $1::bigint
    ORDER BY ended_at LIMIT $2
), here AS MATERIALIZED (
    SELECT id FROM queues WHERE id IN (SELECT queue FROM due) ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS MATERIALIZED (
    SELECT batches.id, batches.queue, batches.bytes FROM batches
    WHERE id IN (SELECT id FROM due) AND queue IN (SELECT id FROM here) FOR UPDATE SKIP LOCKED
), sized AS MATERIALIZED (
    SELECT batch, index, sum(coalesce(octet_length(body), 0)) OVER (ORDER BY batch, index) - coalesce(octet_length(body), 0) AS before
    FROM marks WHERE batch IN (SELECT id FROM gone)
), whole AS MATERIALIZED (
    SELECT id, queue, bytes FROM gone WHERE id NOT IN (SELECT batch FROM sized WHERE before >= $3::bigint)
), counts AS MATERIALIZED (
    SELECT queue, count(*) AS n, sum(bytes) AS size FROM whole GROUP BY queue
), hidden AS (
    UPDATE batches SET deleted = true, dedup_key = NULL
    WHERE id IN (SELECT id FROM gone) AND id NOT IN (SELECT id FROM whole) AND NOT deleted
), no_marks AS (
    DELETE FROM marks USING sized WHERE before < $3::bigint AND marks.batch = sized.batch AND marks.index = sized.index
), no_requests AS (
    DELETE FROM requests WHERE batch IN (SELECT id FROM whole)
), no_deliveries AS (
    DELETE FROM deliveries WHERE batch IN (SELECT id FROM whole)
), no_batches AS (
    DELETE FROM batches WHERE id IN (SELECT id FROM whole)
), shrunk AS (
    UPDATE queues SET held = held - n, bytes = bytes - size FROM counts WHERE queues.id = counts.queue AND (held > n OR paused)
), no_queues AS (
    DELETE FROM queues USING counts WHERE queues.id = counts.queue AND held <= n AND NOT paused RETURNING queues.id
), no_owners AS (
    DELETE FROM owners WHERE queue IN (SELECT id FROM no_queues)
)
SELECT count(*) FROM gone;

-- name: correct_deliveries
-- The first limit is that of the time itself, the second one that of any delivery.
UPDATE deliveries SET next_at = least(sheaf_now() + greatest(next_at - set_at, 0), sheaf_now() + $1::bigint), set_at = sheaf_now()
WHERE batch IN (
    SELECT batch FROM deliveries
    WHERE state = 1 AND (set_at > (SELECT sheaf_now()) OR next_at > (SELECT sheaf_now()) + $1::bigint)
    FOR UPDATE SKIP LOCKED
);

-- name: due_deliveries
-- Visits one lane after the other by the index. Takes at most one delivery of each store and each
-- host.
WITH RECURSIVE lanes AS (
    (SELECT store, host, 1 AS nth FROM deliveries WHERE state = 1 AND (store, host) > ($3, $4) ORDER BY store, host LIMIT 1)
    UNION ALL
    SELECT later.store, later.host, nth + 1 FROM lanes CROSS JOIN LATERAL (
        SELECT store, host FROM deliveries WHERE state = 1 AND (store, host) > (lanes.store, lanes.host) ORDER BY store, host LIMIT 1
    ) AS later WHERE nth < $5
), free AS (
    SELECT * FROM lanes WHERE NOT EXISTS (
        SELECT FROM unnest($6::text[], $7::text[]) AS busy (store, host)
        WHERE (busy.store = '' OR busy.store = lanes.store) AND (busy.host = '' OR busy.host = lanes.host)
    )
), heads AS (
    SELECT DISTINCT ON (store) store, host, nth, head.batch FROM free CROSS JOIN LATERAL (
        SELECT batch FROM deliveries
        WHERE state = 1 AND deliveries.store = free.store AND deliveries.host = free.host AND next_at <= (SELECT sheaf_now())
        ORDER BY next_at LIMIT 1
    ) AS head ORDER BY store, nth
), chosen AS (
    SELECT * FROM (SELECT DISTINCT ON (host) * FROM heads ORDER BY host, nth) AS each ORDER BY nth LIMIT $1
), due AS (
    SELECT batch FROM deliveries WHERE batch IN (SELECT batch FROM chosen) AND state = 1 AND next_at <= sheaf_now() FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE deliveries SET attempts = attempts + 1, next_at = sheaf_now() + $2::bigint, set_at = sheaf_now() FROM due WHERE deliveries.batch = due.batch
    RETURNING deliveries.batch, deliveries.state, attempts, next_at, code, problem, host
)
SELECT taken.batch, ticket, batches.store, group_id, callback, taken.state, attempts, next_at, ended_at, code, problem, total, completed, failed, taken.host,
    CASE WHEN batches.in_doubt >= 0 OR batches.failed = 0 THEN greatest(batches.in_doubt, 0) ELSE (SELECT count(*) FROM marks WHERE marks.batch = batches.id AND sheaf_in_doubt(marks)) END
FROM taken JOIN chosen ON chosen.batch = taken.batch JOIN batches ON batches.id = taken.batch WHERE NOT deleted ORDER BY chosen.nth;

-- name: last_lane
-- Returns the lane at which due_deliveries stopped; no row if it has visited all lanes.
WITH RECURSIVE lanes AS (
    (SELECT store, host, 1 AS nth FROM deliveries WHERE state = 1 AND (store, host) > ($1, $2) ORDER BY store, host LIMIT 1)
    UNION ALL
    SELECT later.store, later.host, nth + 1 FROM lanes CROSS JOIN LATERAL (
        SELECT store, host FROM deliveries WHERE state = 1 AND (store, host) > (lanes.store, lanes.host) ORDER BY store, host LIMIT 1
    ) AS later WHERE nth < $3
)
SELECT store, host FROM lanes WHERE nth = $3;

-- name: deliveries
SELECT deliveries.batch, ticket, batches.store, group_id, callback, deliveries.state, attempts, next_at, ended_at, code, problem, total, completed, failed, host,
    CASE WHEN batches.in_doubt >= 0 OR batches.failed = 0 THEN greatest(batches.in_doubt, 0) ELSE (SELECT count(*) FROM marks WHERE marks.batch = batches.id AND sheaf_in_doubt(marks)) END
FROM batches JOIN deliveries ON deliveries.batch = batches.id
WHERE batches.store = $1 AND owner = $2 AND ended_at <> 0 AND NOT deleted AND ($3::uuid IS NULL OR ticket = $3) AND batches.id < $6
ORDER BY batches.id DESC LIMIT $4 OFFSET $5;

-- name: put_delivery
UPDATE deliveries SET state = $2, next_at = $3, code = $4, problem = $5, set_at = sheaf_now() WHERE batch = $1 AND state = 1 AND attempts = $6;

-- name: spare_delivery
UPDATE deliveries SET attempts = attempts - 1, next_at = $3, set_at = sheaf_now() WHERE batch = $1 AND state = 1 AND attempts = $2;

-- name: redeliver
UPDATE deliveries SET state = 1, attempts = 0, next_at = sheaf_now(), set_at = sheaf_now()
WHERE batch = (SELECT id FROM batches WHERE ticket = $1 AND store = $2 AND owner = $3 AND NOT deleted) RETURNING batch;

-- name: correct_holds
-- A row from the future was written while a clock was ahead. If the row has no set_at, it is
-- unknown how long its reservation was meant to last.
UPDATE store_holds SET
    until = least(until - greatest(set_at - sheaf_now(), 0), sheaf_now() + $1::bigint),
    next = CASE WHEN set_at = 0 THEN 0 ELSE next - greatest(set_at - sheaf_now(), 0) END,
    set_at = sheaf_now()
WHERE (credential, store) IN (
    SELECT credential, store FROM store_holds
    WHERE (set_at > sheaf_now() OR set_at = 0 OR until > sheaf_now() + $1::bigint) AND credential BETWEEN $2 AND $3
    ORDER BY credential, store FOR UPDATE
);

-- name: hold
INSERT INTO store_holds (credential, until, set_at, store) VALUES ($1, least($2::bigint, sheaf_now() + $3::bigint), sheaf_now(), $4)
ON CONFLICT (credential, store) DO UPDATE SET until = greatest(store_holds.until, excluded.until), set_at = excluded.set_at;

-- name: holds
SELECT credential, store, until, set_at > sheaf_now() OR set_at = 0 OR until > sheaf_now() + $1::bigint FROM store_holds WHERE until > sheaf_now();

-- name: reserve
INSERT INTO store_holds (credential, next, set_at) VALUES ($1, sheaf_now() + $2::bigint, sheaf_now())
ON CONFLICT (credential, store) DO UPDATE SET next = greatest(store_holds.next, sheaf_now()) + $2::bigint, set_at = excluded.set_at
RETURNING next - $2::bigint;

-- name: outages
SELECT upstream, since, probes, probe_at FROM outages;

-- name: put_outage
INSERT INTO outages (upstream, since, probes, probe_at)
SELECT $1::bytea, $2::bigint, $3::integer, $4::bigint WHERE $3::integer = coalesce((SELECT probes + 1 FROM outages WHERE upstream = $1), 0)
ON CONFLICT (upstream) DO UPDATE SET probes = excluded.probes, probe_at = excluded.probe_at WHERE outages.probes = excluded.probes - 1
RETURNING 1;

-- name: end_outage
DELETE FROM outages WHERE upstream = $1;

-- name: renew
UPDATE batches SET owner = $2, credential = CASE WHEN ended_at = 0 THEN $3::bytea END,
    dedup_key = CASE WHEN owner <> $2 AND EXISTS (SELECT FROM batches AS other WHERE other.store = batches.store AND other.owner = $2 AND other.dedup_key = batches.dedup_key) THEN NULL ELSE dedup_key END
WHERE id = $1 AND owner = $4 AND NOT deleted RETURNING id;

-- name: rename_queue
UPDATE queues SET name = $2 WHERE id = $1 AND NOT EXISTS (SELECT FROM queues WHERE name = $2);

-- name: wake_renewed
UPDATE owners SET not_before = 0 WHERE queue = $1 AND waits_for = 2;

-- name: accepted
INSERT INTO credentials (id, accepted_at) VALUES ($1, sheaf_now()) ON CONFLICT (id) DO UPDATE SET accepted_at = excluded.accepted_at, expired_at = 0;

-- name: was_accepted
SELECT accepted_at <> 0 FROM credentials WHERE id = $1;

-- name: expire
INSERT INTO credentials (id, expired_at) VALUES ($1, sheaf_now())
ON CONFLICT (id) DO UPDATE SET expired_at = CASE WHEN credentials.expired_at = 0 THEN excluded.expired_at ELSE credentials.expired_at END;

-- name: expired_credentials
SELECT id, expired_at FROM credentials WHERE expired_at <> 0 AND expired_at >= $1;

-- name: forget_credentials
DELETE FROM credentials WHERE greatest(accepted_at, expired_at) < sheaf_now() - $1::bigint;

-- name: delete_holds
DELETE FROM store_holds WHERE until <= sheaf_now() AND next <= sheaf_now();
