SELECT q.owned, b.status, b.stopped, b.deleted
FROM queues q LEFT JOIN batches b ON b.id = ?3 AND b.queue = q.id AND b.ended_at = 0
WHERE q.id = ?1 AND q.epoch = ?2
