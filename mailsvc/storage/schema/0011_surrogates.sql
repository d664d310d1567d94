-- What a client that knows ASCII headers only is shown of an internationalised message, as far as LIST must know it.

-- "surrogate_needed": whether the header of the message, or of one of its parts, has octets beyond ASCII; -1 is not
-- known yet. "surrogate_growth": how many octets longer than the message its surrogate is (RFC 6857). "header_gap": how
-- many octets its header lacks to end with an empty line, mostly 0. All three without what an item puts before it.
ALTER TABLE message ADD COLUMN surrogate_needed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN surrogate_growth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN header_gap INTEGER NOT NULL DEFAULT 0;

-- "surrogate_size": octets of the surrogate as this maildrop shows it, NULL when the item needs none, -1 when that is
-- not known yet; the next session that has not said UTF8 finds it out. "header_gap" is that of the message.
ALTER TABLE mailbox_item ADD COLUMN surrogate_size INTEGER;
ALTER TABLE mailbox_item ADD COLUMN header_gap INTEGER NOT NULL DEFAULT 0;

-- Of what is there already: those that were announced as more than ASCII, and those whose header is.
UPDATE message SET surrogate_needed = -1
    WHERE smtputf8 = 1 OR body_8bit = 1 OR id IN (
        SELECT message_id FROM message_content
        WHERE part = 0 AND CAST(data AS TEXT) GLOB '*[^' || char(1) || '-' || char(127) || ']*'
    );
UPDATE message SET header_gap = 2
    WHERE id IN (
        SELECT message_id FROM message_content
        WHERE part = 0 AND substr(data, -2) = x'0d0a' AND substr(data, -4) <> x'0d0a0d0a' AND data <> x'0d0a'
    );
UPDATE mailbox_item SET surrogate_size = -1
    WHERE message_id IN (SELECT id FROM message WHERE surrogate_needed = -1)
        OR CAST(prefix AS TEXT) GLOB '*[^' || char(1) || '-' || char(127) || ']*';
UPDATE mailbox_item SET header_gap = 2 WHERE message_id IN (SELECT id FROM message WHERE header_gap = 2);

-- For "which items are not shown as they are stored?", which is asked at every login.
CREATE INDEX mailbox_item_shown ON mailbox_item (account_id, surrogate_size, header_gap)
    WHERE surrogate_size IS NOT NULL OR header_gap > 0;
