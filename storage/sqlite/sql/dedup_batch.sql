SELECT ticket, queue FROM batches
WHERE store = ?1 AND owner = ?2 AND dedup_key = ?3 AND deleted = 0 AND created_at > ?4
ORDER BY id DESC LIMIT 1
