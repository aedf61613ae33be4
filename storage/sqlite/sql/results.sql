SELECT id & 511, status, code, kind, line, body FROM results WHERE id BETWEEN ?1 AND ?2 AND state = 3 ORDER BY id
