UPDATE queues SET open = open + 1 WHERE id = ?1
