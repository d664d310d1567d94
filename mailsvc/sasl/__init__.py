"""SASL as values, for SMTP (RFC 4954) and POP3 (RFC 5034): who proves what is spoken here, who is right is not."""
