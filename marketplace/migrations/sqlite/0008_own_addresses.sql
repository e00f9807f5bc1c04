-- How many addresses of its own a lease was sold.
ALTER TABLE leases ADD COLUMN own_addresses INTEGER NOT NULL DEFAULT 0;
