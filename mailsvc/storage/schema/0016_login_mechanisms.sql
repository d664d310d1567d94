-- The SASL mechanisms that may be spoken with these credentials, with blanks between them, the postmaster's choice; ''
-- for the best that both sides know.
ALTER TABLE relay_login ADD COLUMN mechanisms TEXT NOT NULL DEFAULT '';
