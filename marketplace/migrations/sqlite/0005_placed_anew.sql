-- Leases that are lost with their host are placed anew: the placements before
-- the present one, how the present one was lost, and the site that the buyer
-- asked for.
ALTER TABLE leases ADD COLUMN former TEXT NOT NULL DEFAULT '[]';
ALTER TABLE leases ADD COLUMN lost TEXT;
ALTER TABLE leases ADD COLUMN wanted_site TEXT;

-- Whether a site was asked for was not written down before. To stay within the
-- site is right either way.
UPDATE leases SET wanted_site = site;
