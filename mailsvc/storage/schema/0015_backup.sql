-- Domains that we are a backup for, and who is told which recipients there are.

-- A domain whose mail we take and hand over to a better MX host. "source" is where the valid recipients come from:
-- 'table' (what was entered by hand), 'file' ("place" is its path) or 'primary' ("place" is the URL of the server that
-- has the mailboxes, "key_file" the path of the key that its list was made with; the key itself is in no row).
-- "accept_any": every recipient is taken as long as there has never been a list. "keep" is how long mail is kept, in
-- seconds.
--
-- The list that is in use: "separator" ... "rewrites" are what the domain does with names (mailsvc.backup.forms), "stamp"
-- tells one version of the file or the list from another, "got" is when it was last known to be the newest one, NULL
-- when there has never been one; "asked" is the last try to get it, and "problem" why that failed, '' when it did not.
CREATE TABLE backup_domain (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL UNIQUE,
    source       TEXT NOT NULL CHECK (source IN ('table', 'file', 'primary')),
    place        TEXT NOT NULL DEFAULT '',
    key_file     TEXT NOT NULL DEFAULT '',
    accept_any   INTEGER NOT NULL DEFAULT 0 CHECK (accept_any IN (0, 1)),
    keep         REAL NOT NULL,
    created      REAL NOT NULL,
    separator    TEXT NOT NULL DEFAULT '',
    ignore_dots  INTEGER NOT NULL DEFAULT 0 CHECK (ignore_dots IN (0, 1)),
    exact_case   INTEGER NOT NULL DEFAULT 0 CHECK (exact_case IN (0, 1)),
    catch_all    INTEGER NOT NULL DEFAULT 0 CHECK (catch_all IN (0, 1)),
    rewrites     INTEGER NOT NULL DEFAULT 0 CHECK (rewrites IN (0, 1)),
    stamp        TEXT NOT NULL DEFAULT '',
    got          REAL,
    asked        REAL,
    problem      TEXT NOT NULL DEFAULT ''
);

-- The list. "entry" is a name in one of its forms: in clear for 'table' and 'file', 64 hexadecimal digits (HMAC-SHA256)
-- for 'primary'. "accepted" is 0 for a name that exists and takes no mail, which matters where all others do.
CREATE TABLE backup_recipient (
    backup_id  INTEGER NOT NULL REFERENCES backup_domain (id) ON DELETE CASCADE,
    entry      TEXT NOT NULL,
    accepted   INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    PRIMARY KEY (backup_id, entry)
) WITHOUT ROWID;

-- The other side: who may fetch the list of some of our domains, by the key of a client certificate ("spki": SHA-256, 64
-- hexadecimal digits). "key_file" is the path of the key that the list is made with.
CREATE TABLE backup_offer (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    label      TEXT NOT NULL UNIQUE,
    spki       TEXT NOT NULL UNIQUE,
    subject    TEXT NOT NULL,
    key_file   TEXT NOT NULL,
    created    REAL NOT NULL,
    last_used  REAL
);
CREATE TABLE backup_offer_domain (
    offer_id  INTEGER NOT NULL REFERENCES backup_offer (id) ON DELETE CASCADE,
    domain    TEXT NOT NULL,
    PRIMARY KEY (offer_id, domain)
) WITHOUT ROWID;
