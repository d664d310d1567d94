"""All targets, by name."""

from __future__ import annotations

from tests.fuzz.commands import ADDRESS, COMMAND, PARAMETERS
from tests.fuzz.messages import AUTHORS, LINES, MESSAGE, REPORT
from tests.fuzz.sessions import PROXY, SASL

TARGETS = {
    target.name: target for target in (ADDRESS, COMMAND, PARAMETERS, SASL, MESSAGE, AUTHORS, LINES, PROXY, REPORT)
}
