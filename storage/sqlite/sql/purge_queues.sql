DELETE FROM queues WHERE id IN (SELECT id FROM queues WHERE open = 0 AND idle_since <= ?1 ORDER BY idle_since LIMIT ?2)
