"""Backup MX: who may get mail in the domains of another server, on both sides.

`forms` says under which texts a name stands in a list, in clear or hashed with a key; `listing` is a list as a file and
as it travels; `place` the URL of a primary.  These are pure.  `keys` reads the key that both sides share, `judging`
answers RCPT, `keeping` keeps lists as new as they can be had, `fetching` asks the primary, and `offering` is the small
HTTPS server that the primary answers with.
"""
