UPDATE queues SET owned = 0, epoch = epoch + 1 WHERE owned = 1 AND open > 0
