"""Mail that people and programs hand over: `mailsvc.send`, ``mailsvc send`` and ``mailsvc sendmail``."""
