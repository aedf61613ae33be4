SELECT id, queue, started_at FROM batches
WHERE store = ?1 AND owner = ?2 AND group_id = ?3 AND group_id <> '' AND ended_at = 0 AND stopped = 0 AND deleted = 0
ORDER BY id
