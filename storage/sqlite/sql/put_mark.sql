INSERT OR REPLACE INTO results (id, state, status, code, kind, attempts, retries, throttles, maybe_done,
  throttled_since, not_before, started_at, ended_at, line, body)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
