-- The host that the same hardware is now.
ALTER TABLE hosts ADD COLUMN replaced_by TEXT;
