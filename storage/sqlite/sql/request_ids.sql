SELECT ids FROM requests WHERE batch = ?1
