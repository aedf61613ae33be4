SELECT id & 511, state, status, code, kind, attempts, retries, throttles, maybe_done, throttled_since, not_before,
  started_at, ended_at, line, CASE state WHEN 3 THEN NULL ELSE body END
FROM results WHERE id BETWEEN ?1 AND ?2 ORDER BY id
