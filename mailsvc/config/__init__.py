"""The settings: what exists, what it may be, and how file, environment and options become a `Configuration`.

`settings.py` lists every setting once; `kinds.py` and `endpoint.py` say what a value may be; `table.py` is the same
by name; `layers.py` combines the sources and reports every mistake at once.
"""

from __future__ import annotations

from mailsvc.config.layers import InForce, described, load
from mailsvc.config.settings import (
    Accounts,
    Configuration,
    Delivery,
    Gate,
    Limits,
    Listen,
    Pop3,
    Smtp,
    Surroundings,
    Timeouts,
)
from mailsvc.config.table import SETTINGS, Setting

__all__ = [
    "SETTINGS",
    "Accounts",
    "Configuration",
    "Delivery",
    "Gate",
    "InForce",
    "Limits",
    "Listen",
    "Pop3",
    "Setting",
    "Smtp",
    "Surroundings",
    "Timeouts",
    "described",
    "load",
]
