SELECT id, queue, store, owner, group_id, total, status, completed, stopped, created_at, started_at, ended_at, reason
FROM batches WHERE ticket = ?1 AND deleted = 0
