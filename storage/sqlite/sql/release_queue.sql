UPDATE queues SET owned = 0, not_before = ?2 WHERE id = ?1
