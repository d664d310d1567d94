-- Who gets mail: aliases, the rules of a domain, quota.

-- What a domain does with the part before the @, and with names that nobody has. "separator" is the character from
-- which on a name is detail ("alice+shop" is alice), '' for none. "ignore_dots": "a.lice" is alice. "exact_case": "Alice"
-- is not alice (postmaster and abuse always are, RFC 5321 section 4.5.1). "catch_all" and "postmaster" are addresses,
-- resolved like any other when mail comes; NULL for none. "default_quota" is in octets and holds for the accounts that
-- have none of their own; NULL for none.
ALTER TABLE domain ADD COLUMN separator TEXT NOT NULL DEFAULT '+' CHECK (length(separator) <= 1);
ALTER TABLE domain ADD COLUMN ignore_dots INTEGER NOT NULL DEFAULT 0 CHECK (ignore_dots IN (0, 1));
ALTER TABLE domain ADD COLUMN exact_case INTEGER NOT NULL DEFAULT 0 CHECK (exact_case IN (0, 1));
ALTER TABLE domain ADD COLUMN catch_all TEXT;
ALTER TABLE domain ADD COLUMN postmaster TEXT;
ALTER TABLE domain ADD COLUMN default_quota INTEGER CHECK (default_quota > 0);

-- "quota": NULL is the domain's default, 0 is none at all, otherwise octets. "used_octets" is the sum of the sizes in
-- the account's maildrop; it is changed in the statement or the transaction that adds or removes an item, so that
-- RCPT need not add up 100,000 rows. "quota_warned": the maildrop was told that it is nearly full, and has not been
-- emptier since.
ALTER TABLE account ADD COLUMN quota INTEGER CHECK (quota >= 0);
ALTER TABLE account ADD COLUMN used_octets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN quota_warned INTEGER NOT NULL DEFAULT 0 CHECK (quota_warned IN (0, 1));
UPDATE account SET used_octets = (SELECT COALESCE(SUM(size), 0) FROM mailbox_item WHERE account_id = account.id);

-- One line for each place where an address of ours leads. "address" is as the postmaster wrote it, "key" as for
-- accounts; several lines of one key are one alias with several targets, and an account may have the same key (the
-- alias then comes first, and itself as a target is the account). "kind" and "target": 'address' and a mail address,
-- or 'pipe' and a JSON list of strings, the program and its arguments. "target_key" is what makes two spellings of one
-- target the same.
CREATE TABLE alias (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    domain_id   INTEGER NOT NULL REFERENCES domain (id),
    address     TEXT NOT NULL,
    key         TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('address', 'pipe')),
    target      TEXT NOT NULL,
    target_key  TEXT NOT NULL,
    created     REAL NOT NULL,
    UNIQUE (key, kind, target_key)
);
CREATE INDEX alias_by_domain ON alias (domain_id);

-- For domains that ignore dots: the key without any dot, which inside one domain is the name without its dots.
CREATE INDEX account_without_dots ON account (domain_id, replace(key, '.', ''));
CREATE INDEX alias_without_dots ON alias (domain_id, replace(key, '.', ''));
