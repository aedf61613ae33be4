UPDATE results SET state = 3, status = ?3, code = ?4, kind = ?5, line = ?6, body = ?7
WHERE id BETWEEN ?1 AND ?2 AND state = 1
