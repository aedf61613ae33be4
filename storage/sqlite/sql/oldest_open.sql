SELECT id FROM batches WHERE queue = ?1 AND ended_at = 0 ORDER BY id LIMIT 1
