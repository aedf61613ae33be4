UPDATE queues SET owned = 1 WHERE id = ?1 AND owned = 0
