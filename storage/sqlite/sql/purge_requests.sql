DELETE FROM requests WHERE batch = ?1
