UPDATE queues SET open = open - 1, idle_since = ?2 WHERE id = ?1
