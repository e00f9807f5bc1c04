-- Ids and enumerations are TEXT, times microseconds since 1970 (UTC), money
-- micro-units, nested values JSON. Hashes are written `sha256:<hex>`.

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL UNIQUE,
    uses INTEGER,
    used INTEGER NOT NULL CHECK (used >= 0 AND (uses IS NULL OR used <= uses)),
    expires_at INTEGER,
    networks TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE hosts (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    site TEXT NOT NULL,
    key_storage TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    next_key TEXT UNIQUE,
    identity TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    certificate_expires_at INTEGER NOT NULL,
    last_seen_at INTEGER,
    boot TEXT,
    former_boots TEXT NOT NULL,
    inventory TEXT,
    capacity TEXT,
    generation INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    id TEXT NOT NULL PRIMARY KEY,
    quote TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    host TEXT NOT NULL REFERENCES hosts (id),
    site TEXT NOT NULL,
    vcpus INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes INTEGER NOT NULL,
    seconds INTEGER NOT NULL,
    on_lost_link TEXT NOT NULL,
    price INTEGER NOT NULL,
    currency TEXT NOT NULL,
    price_book INTEGER NOT NULL REFERENCES price_books (version),
    quote_expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    guest TEXT,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    boot TEXT,
    stop TEXT,
    reclaim_at INTEGER,
    started_at INTEGER,
    ended_at INTEGER,
    end_reason TEXT,
    phase TEXT,
    detail TEXT NOT NULL,
    addresses TEXT NOT NULL
) STRICT;

CREATE INDEX leases_live ON leases (host) WHERE state NOT IN ('ended', 'settled');
CREATE INDEX leases_unsettled ON leases (id) WHERE state = 'ended';
CREATE INDEX leases_owner ON leases (owner);

CREATE TABLE usage (
    lease TEXT NOT NULL REFERENCES leases (id),
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    measured_at INTEGER NOT NULL,
    running_millis INTEGER NOT NULL,
    cpu_millis INTEGER NOT NULL,
    rx_bytes INTEGER NOT NULL,
    tx_bytes INTEGER NOT NULL,
    -- Came after the bill was closed: kept, not billed.
    late INTEGER NOT NULL,
    PRIMARY KEY (lease, epoch, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipts (
    lease TEXT NOT NULL REFERENCES leases (id),
    epoch INTEGER NOT NULL,
    host TEXT NOT NULL,
    signed TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (lease, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    digest TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    virtual_bytes INTEGER NOT NULL,
    owner TEXT NOT NULL,
    added_at INTEGER NOT NULL
) STRICT;

CREATE TABLE price_books (
    version INTEGER NOT NULL PRIMARY KEY,
    book TEXT NOT NULL
) STRICT;
