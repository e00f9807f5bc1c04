-- What became of a lease's disk, by its host's receipt.
ALTER TABLE leases ADD COLUMN disk_end TEXT;
