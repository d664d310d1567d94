"""Handing mail out: the rules of a POP3 maildrop (pure), and the Twisted classes that speak it."""
