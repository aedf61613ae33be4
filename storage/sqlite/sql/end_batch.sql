UPDATE batches SET status = 3, ended_at = ?2, reason = ?3, credential = x'',
  completed = (SELECT count(*) FROM results WHERE results.id BETWEEN ?4 AND ?5 AND results.state = 3 AND results.status < 3)
WHERE id = ?1
