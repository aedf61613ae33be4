-- All statements of the package, by name. A batch's marks have the ids from batch * 512 to batch *
-- 512 + 511.
--
-- Rows of two tables are combined by subqueries, not by joins, because SQLite plans a join again
-- for each bound value (measured: 9.6 instead of 0.4 µs).

-- name: setting
SELECT value FROM settings WHERE name = ?;

-- name: put_setting
INSERT INTO settings (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: init_setting
INSERT INTO settings (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = iif(value = '', excluded.value, value)
RETURNING value;

-- name: next_process
INSERT INTO settings (name, value) VALUES ('process', '1')
ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1
RETURNING CAST(value AS INTEGER);

-- name: batch_by_ticket
SELECT id, queue, store, owner, group_id, state, stopped, started_at, quarantined_at FROM batches
WHERE ticket = ? AND deleted = 0;

-- name: date_dedup_key
-- A batch from the future was created while the clock was ahead. It counts as created now.
UPDATE batches SET created_at = ?4 WHERE store = ?1 AND owner = ?2 AND dedup_key = ?3 AND created_at > ?4;

-- name: batch_by_dedup_key
SELECT ticket, queue FROM batches
WHERE store = ? AND owner = ? AND dedup_key = ? AND created_at > ?
ORDER BY created_at LIMIT 1;

-- name: open_retry
SELECT ticket, queue FROM batches INDEXED BY batches_retries
WHERE retry_of = ? AND store = ? AND owner = ? AND state < 3 AND deleted = 0;

-- name: any_retry
SELECT ticket, queue FROM batches INDEXED BY batches_lineage
WHERE retry_of = ? AND retry_of IS NOT NULL AND store = ? AND owner = ? AND deleted = 0 LIMIT 1;

-- name: queue_by_name
SELECT id, open, bytes FROM queues WHERE name = ?;

-- name: grow_queue
INSERT INTO queues (name, open, held, bytes) VALUES (?, 1, 1, ?)
ON CONFLICT (name) DO UPDATE SET open = open + 1, held = held + 1, bytes = bytes + excluded.bytes
RETURNING id;

-- name: insert_batch
INSERT INTO batches (queue, state, parallel, stop_on_failure, total, created_at, ticket, store, owner, group_id, dedup_key, credential, bytes, retry_of, callback, trace, options)
VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_requests
INSERT INTO requests (batch, ids, packed) VALUES (?, ?, ?);

-- name: status
SELECT id, store, owner, group_id, state, total, completed, created_at, started_at, ended_at, reason,
    (SELECT ids FROM requests WHERE batch = batches.id), retry_of,
    state < 3 AND stopped = 0 AND (paused OR (SELECT paused FROM queues WHERE id = batches.queue)),
    CASE WHEN state < 3 AND quarantined_at = 0 THEN (SELECT not_before FROM queues WHERE id = batches.queue) ELSE 0 END, quarantined_at,
    CASE WHEN state < 3 AND quarantined_at = 0 THEN (SELECT waits_for FROM queues WHERE id = batches.queue) ELSE 0 END,
    CASE WHEN state < 3 AND quarantined_at = 0 THEN (SELECT waits_since FROM queues WHERE id = batches.queue) ELSE 0 END,
    max(failed, 0), iif(batches.in_doubt >= 0 OR batches.failed = 0, max(batches.in_doubt, 0), (SELECT count(*) FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511 AND marks.in_doubt))
FROM batches WHERE ticket = ? AND deleted = 0;

-- name: done
SELECT id & 511, status, in_doubt FROM marks WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND state = 3 ORDER BY id;

-- name: results
SELECT id & 511, status, code, kind, line, body, headers, attempts, started_at, ended_at, throttles, throttled_since, in_doubt FROM marks
WHERE id BETWEEN ?1 * 512 + ?2 AND ?1 * 512 + 511 AND state = 3 ORDER BY id;

-- name: is_readable
SELECT 1 FROM batches WHERE id = ? AND deleted = 0;

-- name: find_any
SELECT id FROM (
    SELECT * FROM (SELECT id FROM batches WHERE store = ?1 AND owner = ?2 AND state = 1 AND deleted = 0 AND id < ?3 ORDER BY id DESC LIMIT ?4)
    UNION ALL
    SELECT * FROM (SELECT id FROM batches WHERE store = ?1 AND owner = ?2 AND state = 2 AND deleted = 0 AND id < ?3 ORDER BY id DESC LIMIT ?4)
    UNION ALL
    SELECT * FROM (SELECT id FROM batches WHERE store = ?1 AND owner = ?2 AND state = 3 AND deleted = 0 AND id < ?3 ORDER BY id DESC LIMIT ?4)
) ORDER BY id DESC LIMIT ?4;

-- name: find_open
SELECT id FROM (
    SELECT * FROM (SELECT id FROM batches WHERE store = ?1 AND owner = ?2 AND state = 1 AND deleted = 0 AND id > ?3 ORDER BY id LIMIT ?4)
    UNION ALL
    SELECT * FROM (SELECT id FROM batches WHERE store = ?1 AND owner = ?2 AND state = 2 AND deleted = 0 AND id > ?3 ORDER BY id LIMIT ?4)
) ORDER BY id LIMIT ?4;

-- name: find_state
SELECT id FROM batches WHERE store = ? AND owner = ? AND state = ? AND deleted = 0 AND id < ? ORDER BY id DESC LIMIT ?;

-- name: find_oldest
SELECT id FROM batches WHERE store = ? AND owner = ? AND state = ? AND deleted = 0 AND id > ? ORDER BY id LIMIT ?;

-- name: find_group
SELECT id FROM batches INDEXED BY batches_grouped
WHERE store = ? AND owner = ? AND group_id = ? AND group_id <> '' AND deleted = 0 AND id < ? ORDER BY id DESC LIMIT ?;

-- name: find_failed
SELECT id FROM batches INDEXED BY batches_failed
WHERE store = ? AND owner = ? AND failed > 0 AND deleted = 0 AND id < ? ORDER BY id DESC LIMIT ?;

-- name: newest_batch
SELECT max(id) FROM batches;

-- name: created_until
SELECT id, created_at FROM batches WHERE store = ? AND owner = ? AND state = 3 AND deleted = 0 AND id <= ? ORDER BY id DESC LIMIT 1;

-- name: summary
SELECT ticket, group_id, state, total, completed, failed, created_at, started_at, ended_at, retry_of, paused AND state < 3 AND stopped = 0,
    EXISTS (SELECT 1 FROM batches AS again INDEXED BY batches_lineage WHERE again.retry_of = batches.ticket AND again.retry_of IS NOT NULL AND again.deleted = 0),
    quarantined_at, iif(batches.in_doubt >= 0 OR batches.failed = 0, max(batches.in_doubt, 0), (SELECT count(*) FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511 AND marks.in_doubt))
FROM batches WHERE id = ? AND deleted = 0;

-- name: has_code
SELECT 1 FROM marks WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND state = 3 AND code = ?2 AND status <> 3 LIMIT 1;

-- name: queue_state
SELECT open, held, paused, not_before, waits_for, waits_since,
    (SELECT count(*) FROM batches INDEXED BY batches_quarantined_of WHERE queue = queues.id AND quarantined_at <> 0)
FROM queues WHERE name = ?;

-- name: count_queues
SELECT count(*), coalesce(sum(owner = ?), 0), coalesce(sum(open), 0) FROM queues WHERE open > 0;

-- name: loads
SELECT name, open, owner = ?1, paused, not_before, waits_for, waits_since,
    (SELECT created_at FROM batches WHERE queue = queues.id AND state < 3 AND quarantined_at = 0 ORDER BY id LIMIT 1)
FROM queues WHERE open > 0 ORDER BY open DESC, id LIMIT ?2;

-- name: file_size
SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size();

-- name: used_size
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size();

-- name: unfinished
SELECT coalesce(sum(open), 0) FROM queues WHERE name >= ?1 AND name < ?2;

-- name: requests_of
SELECT parallel, stop_on_failure, (SELECT packed FROM requests WHERE batch = batches.id), options FROM batches WHERE id = ? AND deleted = 0;

-- name: news
SELECT state, completed, started_at,
    CASE WHEN state < 3 AND quarantined_at = 0 THEN (SELECT waits_for FROM queues WHERE id = batches.queue) ELSE 0 END
FROM batches WHERE id = ? AND deleted = 0;

-- name: open_of_group
SELECT id, queue, started_at, quarantined_at FROM batches INDEXED BY batches_group
WHERE store = ? AND owner = ? AND group_id = ? AND group_id <> '' AND state < 3 AND stopped = 0 AND deleted = 0;

-- name: stop
UPDATE batches SET stopped = 1 WHERE id = ?;

-- name: delete
UPDATE batches SET stopped = 1, deleted = 1, dedup_key = NULL, ended_at = iif(state = 3, 1, 0) WHERE id = ?;

-- name: pause_batch
UPDATE batches SET paused = ?2 WHERE id = ?1 AND state < 3 AND stopped = 0 AND paused <> ?2 RETURNING queue;

-- name: pause_queue
INSERT INTO queues (name, open, held, paused) SELECT ?1, 0, 0, 1 WHERE ?2
ON CONFLICT (name) DO UPDATE SET paused = 1 WHERE paused = 0
RETURNING id;

-- name: resume_queue
UPDATE queues SET paused = 0, not_before = 0 WHERE name = ? AND paused = 1 RETURNING id;

-- name: grouped
SELECT id, state, total, completed, failed, started_at <> 0, iif(batches.in_doubt >= 0 OR batches.failed = 0, max(batches.in_doubt, 0), (SELECT count(*) FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511 AND marks.in_doubt)) FROM batches INDEXED BY batches_grouped
WHERE store = ? AND owner = ? AND group_id = ? AND group_id <> '' AND deleted = 0;

-- name: wake_queue
UPDATE queues SET not_before = 0 WHERE id = ?;

-- name: end_batch
UPDATE batches SET
    state = 3,
    ended_at = iif(deleted, 1, ?2), -- nobody can read it any more, so it is purged at once
    completed = (SELECT count(*) FROM marks WHERE marks.id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND marks.state = 3 AND marks.status <> 3),
    failed = (SELECT count(*) FROM marks WHERE marks.id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND marks.state = 3 AND marks.status = 2),
    in_doubt = (SELECT count(*) FROM marks WHERE marks.id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND marks.in_doubt),
    reason = ?3,
    credential = NULL
WHERE id = ?1;

-- name: insert_delivery
INSERT INTO deliveries (id, state, next_at, set_at, store, host)
SELECT id, 1, ?2, ?2, store, lower(substr(rest, 1, instr(replace(rest, '?', '/') || '/', '/') - 1))
FROM (SELECT *, substr(callback, instr(callback, '://') + 3) AS rest FROM batches) WHERE id = ?1 AND callback <> '' AND deleted = 0
ON CONFLICT DO NOTHING;

-- name: any_delivery
SELECT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND next_at <= ?1)
    OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND next_at > ?1 + ?2)
    OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_set WHERE state = 1 AND set_at > ?1);

-- name: correct_deliveries
-- The first limit is that of the time itself, the second one that of any delivery.
UPDATE deliveries SET next_at = min(?1 + max(next_at - set_at, 0), ?1 + ?2), set_at = ?1
WHERE state = 1 AND id IN (
    SELECT id FROM deliveries INDEXED BY deliveries_set WHERE state = 1 AND set_at > ?1
    UNION ALL
    SELECT id FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND next_at > ?1 + ?2
);

-- name: next_lane
SELECT store, host FROM deliveries INDEXED BY deliveries_lanes
WHERE state = 1 AND (store, host) > (?, ?) ORDER BY store, host LIMIT 1;

-- name: next_store
SELECT store, host FROM deliveries INDEXED BY deliveries_lanes
WHERE state = 1 AND store > ? ORDER BY store, host LIMIT 1;

-- name: take_delivery
UPDATE deliveries SET attempts = attempts + 1, next_at = ?3 + ?4, set_at = ?3
WHERE id = (SELECT id FROM deliveries INDEXED BY deliveries_lanes WHERE state = 1 AND store = ?1 AND host = ?2 AND next_at <= ?3 ORDER BY next_at LIMIT 1)
RETURNING id;

-- name: delivery
SELECT deliveries.id, ticket, batches.store, group_id, callback, deliveries.state, attempts, next_at, ended_at, code, problem, total, completed, failed, host,
    iif(batches.in_doubt >= 0 OR batches.failed = 0, max(batches.in_doubt, 0), (SELECT count(*) FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511 AND marks.in_doubt))
FROM deliveries JOIN batches ON batches.id = deliveries.id WHERE deliveries.id = ? AND deleted = 0;

-- name: deliveries
SELECT deliveries.id, ticket, batches.store, group_id, callback, deliveries.state, attempts, next_at, ended_at, code, problem, total, completed, failed, host,
    iif(batches.in_doubt >= 0 OR batches.failed = 0, max(batches.in_doubt, 0), (SELECT count(*) FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511 AND marks.in_doubt))
FROM batches INDEXED BY batches_search CROSS JOIN deliveries ON deliveries.id = batches.id
WHERE batches.store = ?1 AND owner = ?2 AND batches.state = 3 AND deleted = 0 AND (?3 IS NULL OR ticket = ?3) AND batches.id < ?6
ORDER BY batches.id DESC LIMIT ?4 OFFSET ?5;

-- name: put_delivery
UPDATE deliveries SET state = ?2, next_at = ?3, code = ?4, problem = ?5, set_at = ?7 WHERE id = ?1 AND state = 1 AND attempts = ?6;

-- name: spare_delivery
UPDATE deliveries SET attempts = attempts - 1, next_at = ?3, set_at = ?4 WHERE id = ?1 AND state = 1 AND attempts = ?2;

-- name: redeliver
UPDATE deliveries SET state = 1, attempts = 0, next_at = ?2, set_at = ?2 WHERE id = ?1 RETURNING id;

-- name: delete_delivery
DELETE FROM deliveries WHERE id = ?;

-- name: result_bytes
SELECT coalesce(sum(length(body)), 0) FROM marks WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND state = 3;

-- name: weigh_batch
UPDATE batches SET bytes = bytes + ?2 WHERE id = ?1;

-- name: shrink_queue
UPDATE queues SET open = open - 1, bytes = bytes + ?2 WHERE id = ?1;

-- name: runnable
SELECT id, not_before, waits_for FROM queues
WHERE id > ? AND open > 0 AND owner <> ?
ORDER BY id LIMIT ?;

-- name: queue
SELECT owner, epoch FROM queues WHERE id = ?;

-- name: next_open
SELECT id FROM batches WHERE queue = ? AND state < 3 AND quarantined_at = 0 ORDER BY id LIMIT 1;

-- name: own_queue
UPDATE queues SET owner = ?2, epoch = ?3, not_before = 0 WHERE id = ?1;

-- name: leave_queue
UPDATE queues SET owner = 0,
    not_before = CASE
        WHEN EXISTS (SELECT 1 FROM batches WHERE batches.id = ?3 AND state < 3 AND stopped = 1) THEN 0
        WHEN ?2 = ?4 AND NOT (paused OR EXISTS (SELECT 1 FROM batches WHERE batches.id = ?3 AND batches.paused)) THEN 0
        WHEN ?5 = 2 AND EXISTS (SELECT 1 FROM batches WHERE batches.id = ?3 AND credential IS NOT ?7) THEN 0
        ELSE ?2 END,
    waits_for = iif(?5 = 2 AND EXISTS (SELECT 1 FROM batches WHERE batches.id = ?3 AND credential IS NOT ?7), 0, ?5),
    waits_since = iif(?5 = waits_for, waits_since, ?6)
WHERE id = ?1;

-- name: start_batch
UPDATE batches SET started_at = iif(started_at = 0, ?2, started_at), claims = claims + (claimed = 0 OR ?3), claimed = 1 WHERE id = ?1;

-- name: leave_batch
UPDATE batches SET claims = max(claims - 1, 0), claimed = 0 WHERE id = ? AND claimed;

-- name: progressed
UPDATE batches SET claims = 1 WHERE id = ? AND claims > 1;

-- name: end_wait
UPDATE queues SET waits_for = 0, waits_since = 0 WHERE id = ? AND waits_for <> 0;

-- name: quarantine
UPDATE batches SET quarantined_at = ?2, reason = ?3, claims = 0, claimed = 0 WHERE id = ?1 AND state < 3 AND quarantined_at = 0;

-- name: unquarantine
UPDATE batches SET quarantined_at = 0, claims = 0, claimed = 0, reason = iif(?2, reason, '') WHERE id = ?1;

-- name: quarantined
SELECT id, ticket, store, (SELECT name FROM queues WHERE queues.id = batches.queue), group_id, total, created_at, quarantined_at, reason
FROM batches INDEXED BY batches_quarantined WHERE quarantined_at <> 0 AND id > ? ORDER BY id LIMIT ?;

-- name: quarantined_ticket
SELECT id, queue, reason FROM batches WHERE ticket = ? AND quarantined_at <> 0;

-- name: reason
SELECT reason FROM batches WHERE id = ?;

-- name: count_quarantined
SELECT count(*) FROM batches INDEXED BY batches_quarantined WHERE quarantined_at <> 0 AND id > 0;

-- name: count_open
UPDATE queues SET open = open + ?2 WHERE id = ?1;

-- name: running
SELECT (SELECT epoch FROM queues WHERE id = batches.queue), state, stopped, deleted,
    stopped = 0 AND (paused OR (SELECT paused FROM queues WHERE id = batches.queue))
FROM batches WHERE id = ?;

-- name: progress
UPDATE batches SET state = 2 WHERE id = ? AND state = 1;

-- name: put_mark
INSERT INTO marks (id, state, attempts, retries, throttles, throttled_since, maybe_done, started_at, ended_at, not_before, status, code, kind, line, body, headers)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, attempts = excluded.attempts, retries = excluded.retries, throttles = excluded.throttles,
    throttled_since = excluded.throttled_since, maybe_done = excluded.maybe_done, started_at = excluded.started_at,
    ended_at = excluded.ended_at, not_before = excluded.not_before,
    -- A mark without a status has no answer, so the stored answer stays.
    status = iif(excluded.status = 0, status, excluded.status), code = iif(excluded.status = 0, code, excluded.code),
    kind = iif(excluded.status = 0, kind, excluded.kind), line = iif(excluded.status = 0, line, excluded.line),
    body = iif(excluded.status = 0, body, excluded.body), headers = iif(excluded.status = 0, headers, excluded.headers)
WHERE marks.state <> 3;

-- name: insert_journal
INSERT INTO journal (marks) VALUES (?);

-- name: cut_journal
DELETE FROM journal WHERE id < ?;

-- name: read_journal
SELECT marks FROM journal ORDER BY id;

-- name: claimed
SELECT queue, ticket, store, owner, group_id, parallel, stop_on_failure, stopped, deleted, created_at, credential,
    (SELECT length(packed) FROM requests WHERE batch = batches.id),
    stopped = 0 AND (paused OR (SELECT paused FROM queues WHERE id = batches.queue)), started_at, trace, total,
    EXISTS (SELECT 1 FROM marks WHERE marks.id BETWEEN batches.id * 512 AND batches.id * 512 + 511), claims,
    (SELECT waits_for FROM queues WHERE id = batches.queue), options
FROM batches WHERE id = ?;

-- name: packed
SELECT (SELECT packed FROM requests WHERE batch = batches.id) FROM batches WHERE id = ?;

-- name: marks_alone
SELECT id & 511, state, attempts, retries, throttles, throttled_since, maybe_done, started_at, ended_at, not_before,
    status, code, kind, line
FROM marks WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 ORDER BY id;

-- name: open_batches
SELECT id, queue, quarantined_at FROM batches INDEXED BY batches_open WHERE state < 3;

-- name: seals
SELECT DISTINCT substr(credential, 1, ?) FROM batches INDEXED BY batches_open WHERE state < 3 AND credential IS NOT NULL;

-- name: end_begun
UPDATE marks SET state = 3, status = ?2, code = ?3, kind = ?4, line = ?5, body = ?6, headers = NULL, maybe_done = 3
WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND state = 1;

-- name: end_waiting
UPDATE marks SET state = 3 WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 AND state = 2 AND status <> 0;

-- name: release_queues
UPDATE queues SET not_before = 0 WHERE not_before <> 0;

-- name: date_ended
-- A batch from the future ended while the clock was ahead. It counts as ended now.
UPDATE batches SET ended_at = ?1 WHERE id IN (SELECT id FROM batches INDEXED BY batches_ended WHERE state = 3 AND ended_at > ?1 LIMIT ?2);

-- name: expired
SELECT id, queue, bytes FROM batches
WHERE state = 3 AND ended_at <= ?
ORDER BY ended_at LIMIT 1;

-- name: hide
UPDATE batches SET deleted = 1, dedup_key = NULL WHERE id = ? AND deleted = 0;

-- name: mark_sizes
SELECT id, coalesce(length(body), 0) FROM marks WHERE id BETWEEN ?1 * 512 AND ?1 * 512 + 511 ORDER BY id;

-- name: delete_marks
DELETE FROM marks WHERE id BETWEEN ? AND ?;

-- name: delete_requests
DELETE FROM requests WHERE batch = ?;

-- name: delete_batch
DELETE FROM batches WHERE id = ?;

-- name: empty_queue
UPDATE queues SET held = held - 1, bytes = bytes - ?2 WHERE id = ?1;

-- name: delete_queue
DELETE FROM queues WHERE id = ? AND held = 0 AND paused = 0;

-- name: correct_holds
-- A row from the future was written while the clock was ahead. If the row has no set_at, it is
-- unknown how long its reservation was meant to last.
UPDATE holds SET
    until = min(until - max(set_at - ?1, 0), ?1 + ?2),
    next = iif(set_at = 0, 0, next - max(set_at - ?1, 0)),
    set_at = ?1
WHERE (set_at > ?1 OR set_at = 0 OR until > ?1 + ?2) AND credential BETWEEN ?3 AND ?4;

-- name: hold
INSERT INTO holds (credential, until, set_at, store) VALUES (?1, min(?2, ?3 + ?4), ?3, ?5)
ON CONFLICT (credential, store) DO UPDATE SET until = max(until, excluded.until), set_at = excluded.set_at;

-- name: holds
SELECT credential, store, until, set_at > ?1 OR set_at = 0 OR until > ?1 + ?2 FROM holds WHERE until > ?1;

-- name: reserve
INSERT INTO holds (credential, next, set_at) VALUES (?1, ?2 + ?3, ?2)
ON CONFLICT (credential, store) DO UPDATE SET next = max(next, ?2) + ?3, set_at = excluded.set_at
RETURNING next - ?3;

-- name: delete_holds
DELETE FROM holds WHERE until <= ?1 AND next <= ?1;

-- name: outages
SELECT upstream, since, probes, probe_at FROM outages;

-- name: put_outage
INSERT INTO outages (upstream, since, probes, probe_at)
SELECT ?1, ?2, ?3, ?4 WHERE ?3 = coalesce((SELECT probes + 1 FROM outages WHERE upstream = ?1), 0)
ON CONFLICT (upstream) DO UPDATE SET probes = excluded.probes, probe_at = excluded.probe_at
RETURNING 1;

-- name: end_outage
DELETE FROM outages WHERE upstream = ?;

-- name: renew
UPDATE batches SET owner = ?2, credential = iif(state < 3, ?3, NULL),
    dedup_key = iif(owner <> ?2 AND EXISTS (SELECT 1 FROM batches AS other WHERE other.store = batches.store AND other.owner = ?2 AND other.dedup_key = batches.dedup_key), NULL, dedup_key)
WHERE id = ?1;

-- name: rename_queue
UPDATE queues SET name = ?2 WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM queues WHERE name = ?2);

-- name: wake_renewed
UPDATE queues SET not_before = 0 WHERE id = ? AND waits_for = 2;

-- name: accepted
INSERT INTO credentials (id, accepted_at) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET accepted_at = ?2, expired_at = 0;

-- name: was_accepted
SELECT accepted_at <> 0 FROM credentials WHERE id = ?;

-- name: expire
INSERT INTO credentials (id, expired_at) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET expired_at = iif(expired_at = 0, ?2, expired_at);

-- name: expired_credentials
SELECT id, expired_at FROM credentials INDEXED BY credentials_expired WHERE expired_at <> 0 AND expired_at >= ?;

-- name: forget_credentials
DELETE FROM credentials WHERE max(accepted_at, expired_at) < ?;

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;
