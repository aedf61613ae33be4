UPDATE requests SET packed = x'' WHERE batch = ?1
