-- Certificates as rows, beside those in the folder of certificates.
--
-- A row is what a folder NAME there is. "chain" is the text of a fullchain.pem. "sealed_key" is the private key,
-- encrypted (AES-256-GCM) with a key that is never in this database: whoever has a copy of it has no private key.
-- "sealed_by" names that key (the beginning of a hash of it), so that a wrong one is told from a damaged row.
-- "staple" is an OCSP response (DER) or NULL. "revision" is another one after each change.
CREATE TABLE certificate (
    name        TEXT PRIMARY KEY,
    chain       TEXT NOT NULL,
    sealed_key  BLOB NOT NULL,
    sealed_by   TEXT NOT NULL,
    staple      BLOB,
    revision    TEXT NOT NULL,
    changed     REAL NOT NULL
) WITHOUT ROWID;

-- What the postmaster has been told about certificates, so that it is told once. "about" is the certificate's name,
-- "cause" what was told of it.
CREATE TABLE certificate_notice (
    about       TEXT NOT NULL,
    cause       TEXT NOT NULL,
    told        REAL NOT NULL,
    PRIMARY KEY (about, cause)
) WITHOUT ROWID;
