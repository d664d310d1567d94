-- Events that can be asked for: by connection, by client address, and by any word that somebody may come with.
--
-- There is no index by time or kind on purpose. Events are numbered in the order in which they were written, so that
-- pruning takes the lowest numbers and never searches, and every question begins with something that is indexed. Each
-- further index would cost every acceptance a little, for questions that nobody asks.

-- "session" is the number of the connection in which it happened (random, the same for all its events), "peer" the
-- client's IP address in canonical form or "local"; both NULL for what happened in no connection.
ALTER TABLE event ADD COLUMN session INTEGER;
ALTER TABLE event ADD COLUMN peer TEXT;

-- Most events have no trace id; only those that have one are worth a place in the index.
DROP INDEX event_by_trace;
CREATE INDEX event_by_trace ON event (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX event_by_session ON event (session) WHERE session IS NOT NULL;
CREATE INDEX event_by_peer ON event (peer) WHERE peer IS NOT NULL;

-- The words by which an event is found: an address in its look-up form (Address.key), whether as sender, recipient or
-- login; the content of a Message-ID field with its angle brackets; "#7" for message 7. None of them can be mistaken
-- for one of the others.
CREATE TABLE event_key (
    key         TEXT NOT NULL,
    event_id    INTEGER NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    PRIMARY KEY (key, event_id)
) WITHOUT ROWID;
-- For pruning.
CREATE INDEX event_key_by_event ON event_key (event_id);

-- What was accepted before this upgrade is found by its sender and recipients too.
UPDATE event SET peer = json_extract(detail, '$.peer') WHERE kind = 'accepted';
INSERT OR IGNORE INTO event_key (key, event_id)
    SELECT lower(json_extract(event.detail, '$.sender')), event.id FROM event
    WHERE event.kind = 'accepted' AND json_extract(event.detail, '$.sender') LIKE '%@%';
INSERT OR IGNORE INTO event_key (key, event_id)
    SELECT lower(recipient.value), event.id FROM event, json_each(event.detail, '$.recipients') AS recipient
    WHERE event.kind = 'accepted';
