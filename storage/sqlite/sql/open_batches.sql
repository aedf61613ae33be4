SELECT id, queue FROM batches WHERE ended_at = 0 ORDER BY queue, id LIMIT ?1
