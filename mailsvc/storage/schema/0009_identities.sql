-- Client certificates of accounts and of machines, and what TLS was like, as columns of an event.

-- A certificate that logs in as an account (SASL EXTERNAL). "spki" is the SHA-256 of its public key
-- (SubjectPublicKeyInfo), as hex: a renewed certificate with the same key is the same. "subject" is what the certificate
-- called itself when it was added, for people. "last_used" is exact to a minute or so.
CREATE TABLE account_certificate (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id  INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    label       TEXT NOT NULL,
    spki        TEXT NOT NULL UNIQUE CHECK (length(spki) = 64),
    subject     TEXT NOT NULL DEFAULT '',
    created     REAL NOT NULL,
    last_used   REAL,
    UNIQUE (account_id, label)
);

-- Keys that open nothing any more, whoever signed their certificates. They outlive the account ("whose" is its key), so
-- that a stolen one is not good again for a new account of the old name.
CREATE TABLE revoked_key (
    spki        TEXT PRIMARY KEY CHECK (length(spki) = 64),
    whose       TEXT NOT NULL,
    label       TEXT NOT NULL DEFAULT '',
    subject     TEXT NOT NULL DEFAULT '',
    revoked     REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_key_by_owner ON revoked_key (whose);

-- A machine that may hand in mail without a login, by its certificate.
CREATE TABLE relay_client (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    label       TEXT NOT NULL UNIQUE,
    spki        TEXT NOT NULL UNIQUE CHECK (length(spki) = 64),
    subject     TEXT NOT NULL DEFAULT '',
    created     REAL NOT NULL,
    last_used   REAL
);

-- As whom it may send: as in sender_grant, an Address.key, '@' and a domain, or '*' for any.
CREATE TABLE relay_client_sender (
    relay_client_id INTEGER NOT NULL REFERENCES relay_client (id) ON DELETE CASCADE,
    sender          TEXT NOT NULL,
    PRIMARY KEY (relay_client_id, sender)
) WITHOUT ROWID;

-- What the handshake negotiated, and what was known of the client's certificate; all NULL without TLS and for events
-- that have nothing to do with it. "client_certificate" is 'not asked', 'none', 'verified', 'failed' or 'resumed';
-- "client_reasons" a JSON list of what was wrong with it, in a few words each.
ALTER TABLE event ADD COLUMN tls_version TEXT;
ALTER TABLE event ADD COLUMN tls_cipher TEXT;
ALTER TABLE event ADD COLUMN tls_bits INTEGER;
ALTER TABLE event ADD COLUMN tls_group TEXT;
ALTER TABLE event ADD COLUMN client_certificate TEXT;
ALTER TABLE event ADD COLUMN client_subject TEXT;
ALTER TABLE event ADD COLUMN client_issuer TEXT;
ALTER TABLE event ADD COLUMN client_spki TEXT;
ALTER TABLE event ADD COLUMN client_reasons TEXT;
