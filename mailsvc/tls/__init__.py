"""TLS for every listener: credentials, the table that picks one by name, and the object that handshakes with
them."""
