"""mailsvc: a mail service in one Twisted plugin; it takes mail in (SMTP), keeps it (SQL), hands it out (POP3).

The shape in two lines: imports point down only (`tests/test_layers.py` holds the levels), and
`mailsvc/service.py` is the one page where the packages meet.
"""

from __future__ import annotations

__version__ = "0.1.0"
