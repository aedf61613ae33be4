SELECT queue FROM batches WHERE ticket = ?1
