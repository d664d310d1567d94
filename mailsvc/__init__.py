"""mailsvc: a mail service in one Twisted plugin. SMTP takes mail in, SQL keeps it, POP3 hands it out.

The shape in two lines: imports point down only (`tests/test_layers.py` holds the levels), and
`mailsvc/service.py` is the one page where the packages meet.

`mailsvc.send` hands a message over, for programs that embed mailsvc; it and what belongs to it are loaded when they
are first asked for, from the modules named here.  Their types are in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Kind": "mailsvc.relay.outcome",
    "NotDelivered": "mailsvc.sending.api",
    "Outcome": "mailsvc.relay.outcome",
    "Sent": "mailsvc.sending.api",
    "send": "mailsvc.sending.api",
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mailsvc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
