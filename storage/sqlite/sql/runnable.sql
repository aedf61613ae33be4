SELECT id, not_before FROM queues WHERE owned = 0 AND open > 0 AND id > ?1 ORDER BY id LIMIT ?2
