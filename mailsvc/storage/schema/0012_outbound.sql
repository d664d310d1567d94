-- Mail on its way out.

-- A recipient elsewhere, until the message has reached it, its sender was told that it will not, or it was removed. The
-- message and its content stay as long as some row here (or some maildrop) needs them.
--
-- What is sent: "recipient" is what RCPT will name, "reverse_path" what MAIL will name ('' for the null sender; not
-- always that of the message: a forwarded one may have an address of ours), "prefix" whole lines with CRLF that stand
-- before the stored header for this recipient. "account" is the login that submitted it, '' for none. "notify" and
-- "original" are the sender's wish for this recipient, as in delivery_wish. "via" is a relay URL that the postmaster
-- wants instead of the route, '' for none. "destination" is the name under which conversations are counted and rows are
-- gathered, usually the domain; it is a hint, which the queue corrects when the routes say otherwise.
--
-- When: nobody touches the row before "due", in seconds since the epoch; NULL while the postmaster holds it. "owner" is
-- the process that works at it: then "due" is the end of its lease, and whoever finds the row due later takes it over.
-- "changed" is when "due" was set last, except by a lease. "age" is what the row has waited until "changed", in
-- seconds, counted so that a clock that jumps cannot make it old; negative for what is to go out later. "keep" is the
-- age at which it is given up, NULL for what the configuration says.
--
-- What happened: "attempts" so far, "last_host" and "last_text" of the last one, "unreached" whether that found no
-- server that would talk at all; "delay_told": the sender has heard that it takes long.
CREATE TABLE outbound (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id    INTEGER NOT NULL REFERENCES message (id),
    recipient     TEXT NOT NULL,
    reverse_path  TEXT NOT NULL,
    prefix        BLOB NOT NULL DEFAULT x'',
    account       TEXT NOT NULL DEFAULT '',
    notify        TEXT,
    original      TEXT,
    via           TEXT NOT NULL DEFAULT '',
    destination   TEXT NOT NULL,
    due           REAL,
    owner         TEXT,
    created       REAL NOT NULL,
    changed       REAL NOT NULL,
    age           REAL NOT NULL DEFAULT 0,
    keep          REAL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    unreached     INTEGER NOT NULL DEFAULT 0 CHECK (unreached IN (0, 1)),
    delay_told    INTEGER NOT NULL DEFAULT 0 CHECK (delay_told IN (0, 1)),
    last_host     TEXT NOT NULL DEFAULT '',
    last_text     TEXT NOT NULL DEFAULT ''
);
CREATE INDEX outbound_due ON outbound (destination, due);
CREATE INDEX outbound_by_message ON outbound (message_id);

-- The destinations that have rows which are not held: "due" is no later than that of any of them. With it a claim takes
-- a little of every destination that has something due, and never reads past the 100,000 messages that wait for one.
CREATE TABLE outbound_destination (
    name  TEXT PRIMARY KEY,
    due   REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbound_destination_due ON outbound_destination (due);

-- One row: a number that grows whenever somebody besides the queue has changed rows of it. A queue that has work in
-- memory asks for it every second.
CREATE TABLE outbound_change (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    number  INTEGER NOT NULL
);
INSERT INTO outbound_change (id, number) VALUES (1, 0);

-- How many recipients elsewhere an account has written to, by day (UTC, days since the epoch).
CREATE TABLE outbound_day (
    account     TEXT NOT NULL,
    day         INTEGER NOT NULL,
    recipients  INTEGER NOT NULL,
    PRIMARY KEY (account, day)
) WITHOUT ROWID;
