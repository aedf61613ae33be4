SELECT id & 511, status FROM results WHERE id BETWEEN ?1 AND ?2 AND state = 3
