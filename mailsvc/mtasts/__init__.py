"""MTA-STS (RFC 8461): what a domain says about the TLS of its MX hosts."""
