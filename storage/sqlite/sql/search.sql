SELECT ticket, status FROM batches
WHERE store = ?1 AND owner = ?2 AND status = ?3 AND deleted = 0
ORDER BY id LIMIT ?4 OFFSET ?5
