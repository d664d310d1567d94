"""How mailsvc stands up to the network: who may connect, how much of us a client may take, and what is asked about it.

Pure: `places`, `bodies`, `guesses`, `manners`, `blocklists`.  With Twisted: `lookup` (the DNS), `watch` (the SMTP
server's gate), `shortage` (an alarm).
"""
