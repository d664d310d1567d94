"""Certificates in use: credentials, the table that chooses one, and the shared server-TLS object."""
