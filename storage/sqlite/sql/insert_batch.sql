INSERT INTO batches (ticket, queue, store, owner, group_id, dedup_key, parallel, stop_on_failure, total,
  status, completed, stopped, deleted, created_at, started_at, ended_at, reason, credential)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 0, 0, 0, ?10, 0, 0, '', ?11) RETURNING id
