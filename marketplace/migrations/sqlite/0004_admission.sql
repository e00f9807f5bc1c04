-- Rules that admit hosts without a token.
CREATE TABLE admission_rules (
    id TEXT NOT NULL PRIMARY KEY,
    selectors TEXT NOT NULL,
    uses INTEGER,
    used INTEGER NOT NULL CHECK (used >= 0 AND (uses IS NULL OR used <= uses)),
    expires_at INTEGER,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What a host says of itself when it asks to join, where from, and who let it
-- in. Nothing of that is known of those that joined before.
ALTER TABLE hosts ADD COLUMN rack TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN cpu_model TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN address TEXT;
ALTER TABLE hosts ADD COLUMN admitted_by TEXT;
