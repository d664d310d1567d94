-- Per-device maildrops, mail that goes by its age, and deleted mail that can come back.

-- "deletes": what POP3's DELE means. 'account': the message leaves the maildrop. 'device': it leaves what this device
-- sees, and the maildrop when every device in use has deleted it. "expire_days": after so many days in the maildrop
-- mail goes by itself; 0 is never, NULL what the configuration says. "deleted_octets" is the sum of the sizes in
-- deleted_item, kept as "used_octets" is kept; deleted mail is not counted in "used_octets".
ALTER TABLE account ADD COLUMN deletes TEXT NOT NULL DEFAULT 'account' CHECK (deletes IN ('account', 'device'));
ALTER TABLE account ADD COLUMN expire_days INTEGER CHECK (expire_days >= 0);
ALTER TABLE account ADD COLUMN deleted_octets INTEGER NOT NULL DEFAULT 0;
-- For "which is the shortest?", which every client may ask before it logs in.
CREATE INDEX account_by_expiry ON account (expire_days) WHERE expire_days IS NOT NULL;

-- "arrived": when the item came into this maildrop (delivered, imported, brought back). Not the message's received_at,
-- which for imported mail lies years back. Grows with the uid. NULL is not known: such an item does not expire.
ALTER TABLE mailbox_item ADD COLUMN arrived REAL;
UPDATE mailbox_item SET arrived = (SELECT received_at FROM message WHERE message.id = mailbox_item.message_id);

-- A program that has logged in by POP3, told apart by what it logged in with. "credential" is the name that the login
-- gave it ('password', 'app-password 7'), "app_password" the same as a reference, so that a revoked password takes its
-- device along. "last_login" is exact to an hour.
CREATE TABLE device (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id   INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    credential   TEXT NOT NULL,
    app_password INTEGER REFERENCES app_password (id) ON DELETE CASCADE,
    first_login  REAL NOT NULL,
    last_login   REAL NOT NULL,
    UNIQUE (account_id, credential)
);
CREATE INDEX device_by_app_password ON device (app_password);

-- What a device has done with an item, in accounts that delete by device: when it fetched it first, when it deleted
-- it; NULL for not. No row: nothing. The rows go with the item and with the device, whoever removes them.
CREATE TABLE device_item (
    account_id  INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    device_id   INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    fetched     REAL,
    deleted     REAL,
    PRIMARY KEY (account_id, uid, device_id),
    FOREIGN KEY (account_id, uid) REFERENCES mailbox_item (account_id, uid) ON DELETE CASCADE
) WITHOUT ROWID;
-- For "what has this device deleted?", which is asked at its login.
CREATE INDEX device_item_by_device ON device_item (device_id, deleted);

-- An item that has left its maildrop and can still come back: uid, uidl, size and prefix as they were, "deleted" when,
-- "why" by whose wish: 'deleted' by a client, which logged in with "credential", or 'expired' by its age ("credential"
-- is then ''). A message stays as long as some account holds it here or in mailbox_item.
CREATE TABLE deleted_item (
    account_id  INTEGER NOT NULL REFERENCES account (id),
    uid         INTEGER NOT NULL,
    message_id  INTEGER NOT NULL REFERENCES message (id),
    size        INTEGER NOT NULL,
    uidl        TEXT NOT NULL,
    prefix      BLOB NOT NULL,
    arrived     REAL,
    deleted     REAL NOT NULL,
    why         TEXT NOT NULL CHECK (why IN ('deleted', 'expired')),
    credential  TEXT NOT NULL,
    PRIMARY KEY (account_id, uid)
) WITHOUT ROWID;
-- For "does anybody still hold this message?", and for the purge, the oldest first.
CREATE INDEX deleted_item_by_message ON deleted_item (message_id);
CREATE INDEX deleted_item_by_time ON deleted_item (deleted);
