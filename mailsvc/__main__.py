"""`python -m mailsvc` is the `mailsvc` command, for a tree that is not installed."""

from __future__ import annotations

import sys

from mailsvc.cli.start import mailsvc

sys.exit(mailsvc())
