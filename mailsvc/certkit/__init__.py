"""The certificate toolkit, usable without the mail server: make, write, read and judge certificates and
keys."""
