"""mailsvc: a mail service in one Twisted plugin. SMTP takes mail in, SQL keeps it, POP3 hands it out.

The shape in two lines: imports point down only (`tests/test_layers.py` holds the levels), and
`mailsvc/service.py` is the one page where the packages meet.
"""

from __future__ import annotations

__version__ = "0.1.0"
