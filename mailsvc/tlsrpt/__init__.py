"""TLS reports (RFC 8460): what domains hear of the TLS of their MX hosts as we saw it."""
