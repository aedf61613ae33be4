INSERT INTO queues (name, open, owned, epoch, not_before, idle_since)
VALUES (?1, 0, 0, 0, 0, 0) RETURNING id
