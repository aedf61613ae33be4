UPDATE batches SET stopped = 1, deleted = 1 WHERE id = ?1
