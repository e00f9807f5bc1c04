-- Where the ports of a lease's guest are reached.
ALTER TABLE leases ADD COLUMN forwards TEXT NOT NULL DEFAULT '[]';
