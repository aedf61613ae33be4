SELECT id, open FROM queues WHERE name = ?1
