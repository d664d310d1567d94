-- The first tables: domains and accounts, messages and maildrops, events.
--
-- How these files work: each is one numbered upgrade and runs once, in one transaction, in the order of the numbers.
-- A file that was released is never changed; what should be different becomes the next number. The table
-- schema_version, which the upgrader keeps itself, says which have run.
--
-- Times are seconds since the epoch (UTC). Ids are AUTOINCREMENT because an id that was used must never come again:
-- a POP3 session still holds the id of a message that another session has just removed, and would otherwise be
-- handed the mail of somebody else that was stored under the same number.

-- A domain that we take mail for, in lower case and A-label form.
CREATE TABLE domain (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL UNIQUE,
    created     REAL NOT NULL
);

-- A mailbox of ours. "address" is as the postmaster wrote it, "key" is what every look-up uses (Address.key).
-- "next_uid" is the uid of the next message in the maildrop; it only ever grows.
CREATE TABLE account (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    domain_id   INTEGER NOT NULL REFERENCES domain (id),
    address     TEXT NOT NULL,
    key         TEXT NOT NULL UNIQUE,
    disabled    INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created     REAL NOT NULL,
    next_uid    INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX account_by_domain ON account (domain_id);

-- How an account proves who it is: "secret" is a hash (argon2id, with its own parameters and salt), never a password.
-- Apart from the account, so that what a delivery touches holds no secrets and other kinds can follow.
CREATE TABLE credential (
    account_id  INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    kind        TEXT NOT NULL,
    secret      TEXT NOT NULL,
    changed     REAL NOT NULL,
    PRIMARY KEY (account_id, kind)
) WITHOUT ROWID;

-- A message that we took, once, however many accounts hold it. "size" and "header_size" are octets of what is stored
-- (with the trace header that we added); "sha256" is of the message as it arrived, without that. "reverse_path" is ''
-- for the null sender. The four header columns are for people who search; the truth is in message_content.
CREATE TABLE message (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id          TEXT NOT NULL,
    reverse_path      TEXT NOT NULL,
    received_at       REAL NOT NULL,
    size              INTEGER NOT NULL,
    header_size       INTEGER NOT NULL,
    sha256            TEXT NOT NULL,
    subject           TEXT,
    from_header       TEXT,
    date_header       TEXT,
    message_id_header TEXT
);

-- The octets of a message: part 0 is the header block up to and with its empty line, parts 1, 2, ... are the body in
-- pieces of at most 256 KiB. With rowids, unlike the other tables: sqlite keeps large rows better in a rowid table.
CREATE TABLE message_content (
    message_id  INTEGER NOT NULL REFERENCES message (id) ON DELETE CASCADE,
    part        INTEGER NOT NULL,
    data        BLOB NOT NULL,
    PRIMARY KEY (message_id, part)
);

-- A message in the maildrop of an account. All that STAT, LIST and UIDL need stands here in the order of the primary
-- key, so that opening a maildrop of 100,000 messages reads one range of one b-tree. "uidl" is what POP3 calls the
-- message (RFC 1939 section 7): never used for another one, also not after the file was restored from a copy.
CREATE TABLE mailbox_item (
    account_id  INTEGER NOT NULL REFERENCES account (id),
    uid         INTEGER NOT NULL,
    message_id  INTEGER NOT NULL REFERENCES message (id),
    size        INTEGER NOT NULL,
    uidl        TEXT NOT NULL CHECK (length(uidl) BETWEEN 1 AND 70),
    PRIMARY KEY (account_id, uid)
) WITHOUT ROWID;
-- For "does any maildrop still hold this message?"
CREATE INDEX mailbox_item_by_message ON mailbox_item (message_id);

-- What was decided, and why. No foreign keys: an event outlives what it tells of. "detail" is a JSON object.
CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    time        REAL NOT NULL,
    kind        TEXT NOT NULL,
    trace_id    TEXT,
    message_id  INTEGER,
    detail      TEXT NOT NULL
);
CREATE INDEX event_by_trace ON event (trace_id);
