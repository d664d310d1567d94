-- What is known of the policies of others, and what is counted for them.

-- MTA-STS (RFC 8461): the policies that were fetched. "record" is the id of the TXT record that announced it, "mx" its
-- patterns, one a line. It is good until "expires"; "fetched" is when it was fetched last, "used" when mail asked for it
-- last (to the day), so that a policy that nobody needs is not refreshed for ever. All times in seconds since the epoch.
CREATE TABLE sts_policy (
    domain   TEXT PRIMARY KEY,
    record   TEXT NOT NULL,
    mode     TEXT NOT NULL CHECK (mode IN ('enforce', 'testing', 'none')),
    mx       TEXT NOT NULL,
    max_age  INTEGER NOT NULL,
    fetched  REAL NOT NULL,
    expires  REAL NOT NULL,
    used     REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sts_policy_by_age ON sts_policy (fetched);

-- TLS reports (RFC 8460): sessions with the MX hosts of a domain, by day (UTC, days since the epoch). "policy" is what
-- held, "failure" what was wrong ('' for a session that was all right), both as the JSON of the report.
CREATE TABLE tls_count (
    domain    TEXT NOT NULL,
    day       INTEGER NOT NULL,
    policy    TEXT NOT NULL,
    failure   TEXT NOT NULL,
    sessions  INTEGER NOT NULL,
    PRIMARY KEY (domain, day, policy, failure)
) WITHOUT ROWID;

-- The reports that are to be made of them: nobody touches one before "due"; who works at one moves that into the future,
-- so that a process that dies needs no undertaker. "tries": how often it was tried to hand it over.
CREATE TABLE tls_report (
    domain  TEXT NOT NULL,
    day     INTEGER NOT NULL,
    due     REAL NOT NULL,
    tries   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (domain, day)
) WITHOUT ROWID;
CREATE INDEX tls_report_due ON tls_report (due);
