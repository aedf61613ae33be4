UPDATE results SET state = 3, status = 2, not_before = 0 WHERE id BETWEEN ?1 AND ?2 AND state = 2
