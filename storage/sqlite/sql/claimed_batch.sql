SELECT b.ticket, b.store, b.owner, b.group_id, b.parallel, b.stop_on_failure, b.created_at, b.stopped, b.deleted,
  b.credential, r.packed
FROM batches b JOIN requests r ON r.batch = b.id WHERE b.id = ?1
