"""Mailboxes as files: reading and writing Maildir, mbox, and Dovecot's list of unique-ids."""
