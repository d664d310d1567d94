-- What the envelope says beyond who and to whom, and header fields that differ from recipient to recipient.

-- "prefix" stands before the message's stored header in this one maildrop (Delivered-To, RFC 9228): whole lines with
-- CRLF, counted in the item's "size". "release_at": until then nobody sees the item (FUTURERELEASE, RFC 4865); NULL
-- for at once. No index: a maildrop is read whole, in the order of its key.
ALTER TABLE mailbox_item ADD COLUMN prefix BLOB NOT NULL DEFAULT x'';
ALTER TABLE mailbox_item ADD COLUMN release_at REAL;

-- Wishes of the sender for the whole message, as they were said. "smtputf8": RFC 6531, also where no address needs it.
-- "body_8bit": BODY=8BITMIME, RFC 6152. "require_tls": RFC 8689 section 2. "tls_optional": the header field
-- "TLS-Required: No" of its section 3. "dsn_return" is 'FULL' or 'HDRS', "envelope_id" is decoded from xtext
-- (RFC 3461 sections 4.3 and 4.4); both NULL where nothing was said.
ALTER TABLE message ADD COLUMN smtputf8 INTEGER NOT NULL DEFAULT 0 CHECK (smtputf8 IN (0, 1));
ALTER TABLE message ADD COLUMN body_8bit INTEGER NOT NULL DEFAULT 0 CHECK (body_8bit IN (0, 1));
ALTER TABLE message ADD COLUMN require_tls INTEGER NOT NULL DEFAULT 0 CHECK (require_tls IN (0, 1));
ALTER TABLE message ADD COLUMN tls_optional INTEGER NOT NULL DEFAULT 0 CHECK (tls_optional IN (0, 1));
ALTER TABLE message ADD COLUMN dsn_return TEXT CHECK (dsn_return IN ('FULL', 'HDRS'));
ALTER TABLE message ADD COLUMN envelope_id TEXT;

-- What the sender wants to be told of one recipient (RFC 3461 sections 4.1 and 4.2); no row where nothing was said.
-- "address" is the recipient as RCPT named it, "notify" the words in their order ('SUCCESS,FAILURE', 'NEVER') or NULL,
-- "original" is ORCPT as 'type;address' with the address decoded, or NULL.
CREATE TABLE delivery_wish (
    message_id  INTEGER NOT NULL REFERENCES message (id) ON DELETE CASCADE,
    address     TEXT NOT NULL,
    notify      TEXT,
    original    TEXT,
    PRIMARY KEY (message_id, address)
) WITHOUT ROWID;
