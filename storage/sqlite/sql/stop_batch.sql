UPDATE batches SET stopped = 1 WHERE id = ?1
