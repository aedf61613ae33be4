INSERT INTO requests (batch, ids, packed) VALUES (?1, ?2, ?3)
