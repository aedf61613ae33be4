SELECT id FROM batches WHERE deleted = ?1 AND ended_at > 0 AND ended_at <= ?2 ORDER BY ended_at LIMIT 1
