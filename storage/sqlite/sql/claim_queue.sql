UPDATE queues SET owned = 1, epoch = epoch + 1, not_before = 0 WHERE id = ?1 RETURNING epoch
