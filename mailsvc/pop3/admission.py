"""Whether somebody whose password was right gets a session now: LOGIN-DELAY (RFC 2449 section 6.5), and how many.

Pure: account ids and the time in, decisions out.  One `Admission` for the service, so that the limits hold over
connections and listeners.  It is asked after the password, so that nobody learns from it which accounts exist.

What it remembers of an account goes when the delay is over, or the last session has ended.
"""

from __future__ import annotations

from collections import Counter
from math import ceil

from mailsvc.pop3.texts import Refusal


class Admission:
    """``delay``: seconds between two logins of an account, 0 for none; ``sessions``: at a time, of an account."""

    def __init__(self, delay: int = 0, sessions: int = 10) -> None:
        self.delay = delay
        self._sessions = sessions
        # In the order of their logins, so that those whose delay is over stand in front.
        self._last: dict[int, float] = {}
        self._open: Counter[int] = Counter()

    def enter(self, account_id: int, now: float) -> None:
        """Count a session of the account in; call `leave` when it has ended, or came to nothing.

        ``now``: seconds of any steady clock.  Raises `Refusal` when the account may not have another session now.
        """
        since = now - self._last.get(account_id, now - self.delay)
        if since < self.delay:
            raise Refusal("login_delay", seconds=ceil(self.delay - since))
        if self._open[account_id] >= self._sessions:
            raise Refusal("sessions")
        self._open[account_id] += 1

    def begun(self, account_id: int, now: float) -> None:
        """The login has succeeded: the delay begins."""
        if self.delay:
            self._last.pop(account_id, None)
            self._last[account_id] = now
            for other in self._over(now):
                del self._last[other]

    def leave(self, account_id: int) -> None:
        """A session of the account has ended."""
        self._open[account_id] -= 1
        if self._open[account_id] <= 0:
            del self._open[account_id]

    def _over(self, now: float) -> list[int]:
        found = []
        for account_id, at in self._last.items():
            if now - at < self.delay:
                break
            found.append(account_id)
        return found
