"""Taking mail in: the rules of an SMTP session (pure), and the Twisted classes that speak it."""
