-- A name is its owner's: two keys may give the same, and one image may have
-- several. An operator's image is for every buyer.
CREATE TABLE image_names (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    format TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    virtual_bytes INTEGER NOT NULL,
    public INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT;

INSERT INTO image_names (owner, name, digest, format, size_bytes, virtual_bytes, public, added_at)
SELECT owner, name, digest, format, size_bytes, virtual_bytes,
    owner IN (SELECT id FROM keys WHERE role = 'operator'), added_at
FROM images;

DROP TABLE images;
ALTER TABLE image_names RENAME TO images;

-- Quotes that ran out are forgotten.
CREATE INDEX leases_quoted ON leases (quote_expires_at) WHERE state = 'settled' AND guest IS NULL;
