SELECT id, length(body) FROM results WHERE id BETWEEN ?1 AND ?2 ORDER BY id
