-- What TLS a domain has shown, and what the postmaster says of it.

-- The downgrade memory. "direction" is 'in' (mail that this domain brings) or 'out' (mail that it takes). "peer" is for
-- 'in' the network of the client (an IPv4 address or an IPv6 /64), because anybody may say any domain in MAIL FROM and
-- must not teach us anything about the domain of somebody else; for 'out' it is ''. "level" is a number of
-- mailsvc.tls.levels.Level, the best that was seen; "shown" is when it was seen last.
CREATE TABLE tls_memory (
    direction   TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    domain      TEXT NOT NULL,
    peer        TEXT NOT NULL DEFAULT '',
    level       INTEGER NOT NULL,
    shown       REAL NOT NULL,
    PRIMARY KEY (direction, domain, peer)
) WITHOUT ROWID;
-- For forgetting what is old.
CREATE INDEX tls_memory_by_age ON tls_memory (shown);

-- What holds instead, until the time "until" (never for ever): as much as "level", no more and no less.
CREATE TABLE tls_override (
    direction   TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    domain      TEXT NOT NULL,
    level       INTEGER NOT NULL,
    made        REAL NOT NULL,
    until       REAL NOT NULL,
    PRIMARY KEY (direction, domain)
) WITHOUT ROWID;
