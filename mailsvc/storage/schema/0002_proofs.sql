-- How an account proves who it is, beyond the one password, and as whom it may send.
--
-- credential gets a second kind beside 'password': 'scram-sha-256', the verifier of the same password as RFC 5803 writes
-- it, ITERATIONS:SALT$StoredKey:ServerKey behind its name. It goes whenever the password changes without a new one.

-- Keys that belong to this database, as hex. 'scram-salt': what the salts of SCRAM are derived from, for names that
-- exist and names that do not; if it were lost (or made anew at each start) the salts of unknown names would change
-- and those of known ones would not, and so tell which names exist. Made when it is needed first.
CREATE TABLE secret (
    name        TEXT PRIMARY KEY,
    value       TEXT NOT NULL
);

-- Whether what this account sends must be from an address that it owns (MAIL FROM, From:).
ALTER TABLE account ADD COLUMN check_sender INTEGER NOT NULL DEFAULT 1 CHECK (check_sender IN (0, 1));

-- A generated password for one program or device. "digest" is hex SHA-256: enough, because the password is 120 random
-- bits and nobody's choice; "verifier" is its SCRAM form. "only" is the protocol it is good for, '' for all.
-- "last_used" is exact to a minute or so. Ids are never used again: a log line that names one names that one.
CREATE TABLE app_password (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id  INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    label       TEXT NOT NULL,
    only        TEXT NOT NULL DEFAULT '' CHECK (only IN ('', 'smtp', 'pop3')),
    digest      TEXT NOT NULL,
    verifier    TEXT NOT NULL,
    created     REAL NOT NULL,
    last_used   REAL,
    UNIQUE (account_id, label)
);

-- Senders that are not its own which an account may use: an Address.key, '@' and a domain for all of that domain, or
-- '*' for any.
CREATE TABLE sender_grant (
    account_id  INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    sender      TEXT NOT NULL,
    granted     REAL NOT NULL,
    PRIMARY KEY (account_id, sender)
) WITHOUT ROWID;
