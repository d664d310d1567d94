"""The certificate toolkit: make, write, read and judge certificates and keys. Usable without the mail server."""
