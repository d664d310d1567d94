-- What has been imported from elsewhere already, so that nothing comes in twice and a run that was stopped goes on.

-- One row for each message that came in by `mailsvc mailbox import`, written in the transaction that stored it. It stays
-- when the message is deleted: the next run must not bring it back. "source_key" is hex SHA-256 of what makes the
-- message one in its source (the unique part of a Maildir file's name, the octets of an mbox entry), without the
-- place where the source lies, so that a copy of it is the same source. "uidl" is the unique-id that was taken over,
-- NULL when the message got one of ours: no other message of this account may ever have it (RFC 1939 section 7).
CREATE TABLE imported (
    account_id  INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    source_key  TEXT NOT NULL,
    uidl        TEXT,
    imported_at REAL NOT NULL,
    PRIMARY KEY (account_id, source_key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX imported_uidl ON imported (account_id, uidl) WHERE uidl IS NOT NULL;
