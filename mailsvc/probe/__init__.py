"""Looking at a mail server's TLS from outside, and saying what it is worth."""
