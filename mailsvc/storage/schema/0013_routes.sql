-- Where mail goes out, and as whom we log in there.

-- A route goes by one thing. "kind" and "key": 'to' and a recipient's domain ('*.example.org' for those below it),
-- 'account' and the Address.key of a login, 'from' and a sender's Address.key or domain, 'default' and ''. An account's
-- route is kept by its name, like the sender's: rows of mail that is under way know names only. "at_once": the most
-- conversations at a time, NULL for what the configuration says.
CREATE TABLE route (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL CHECK (kind IN ('to', 'account', 'from', 'default')),
    key      TEXT NOT NULL,
    at_once  INTEGER CHECK (at_once BETWEEN 1 AND 10000),
    created  REAL NOT NULL,
    UNIQUE (kind, key)
);

-- Its relays in their order. "weight" is NULL in all rows of a route, or in none.
CREATE TABLE route_relay (
    route_id  INTEGER NOT NULL REFERENCES route (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    url       TEXT NOT NULL,
    weight    INTEGER CHECK (weight BETWEEN 1 AND 65535),
    PRIMARY KEY (route_id, position)
) WITHOUT ROWID;

-- What a relay's URL means by "label@". "sealed" is the secret ('' for kind 'certificate', which has none), sealed with
-- the key that "sealed_by" names; that key is not in the database. "changed" is in seconds since the epoch.
CREATE TABLE relay_login (
    label      TEXT PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('password', 'token', 'certificate')),
    username   TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    sealed_by  TEXT NOT NULL,
    changed    REAL NOT NULL
) WITHOUT ROWID;

-- The secret of the addresses that senders of forwarded mail get (SRS); made when the first is.
CREATE TABLE forward_secret (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    secret  BLOB NOT NULL
);
