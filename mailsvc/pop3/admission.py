"""Whether somebody whose password was right gets a session now: LOGIN-DELAY (RFC 2449 section 6.5), and how many.

Pure: account ids and the time in, decisions out.  One `Admission` for the service, so that the limits hold over
connections and listeners.  It is asked after the password, so that nobody learns from it which accounts exist.

What it remembers of an account goes when the delay is over, or the last session has ended.

The hardest idea: an account that deletes by device has a maildrop for each of them, so that the login of a phone is not
one that a laptop must wait for.  But what an account wants is known only after its rows were read, which the delay
shall spare us.  So it is remembered of the last login: of the whole account, or of one device of it.
"""

from __future__ import annotations

from collections import Counter
from math import ceil

from mailsvc.pop3.texts import Refusal

_ALL = ""
"""In place of a credential: whatever an account logs in with."""


class Admission:
    """``delay``: seconds between two logins of an account or a device, 0 for none.

    ``sessions``: at a time, of an account.
    """

    def __init__(self, delay: int = 0, sessions: int = 10) -> None:
        self.delay = delay
        self._sessions = sessions
        # In the order of their logins, so that those whose delay is over stand in front.
        self._last: dict[tuple[int, str], float] = {}
        self._open: Counter[int] = Counter()

    def enter(self, account_id: int, credential: str, now: float) -> None:
        """Count a session of the account in; call `leave` when it has ended, or came to nothing.

        ``credential`` is what it has logged in with, ``now`` seconds of any clock.  Raises `Refusal` when the
        account may not have another session now.
        """
        for key in ((account_id, _ALL), (account_id, credential)):
            since = now - self._last.get(key, now - self.delay)
            # Less than 0: the clock was set back, and nobody knows how long ago the last login was.
            if 0 <= since < self.delay:
                raise Refusal("login_delay", seconds=ceil(self.delay - since))
        if self._open[account_id] >= self._sessions:
            raise Refusal("sessions")
        self._open[account_id] += 1

    def begun(self, account_id: int, credential: str, now: float, *, by_device: bool) -> None:
        """The login has succeeded: the delay begins, of this device or of the whole account."""
        if self.delay:
            key = (account_id, credential if by_device else _ALL)
            self._last.pop(key, None)
            self._last[key] = now
            for other in self._over(now):
                del self._last[other]

    def leave(self, account_id: int) -> None:
        """A session of the account has ended."""
        self._open[account_id] -= 1
        if self._open[account_id] <= 0:
            del self._open[account_id]

    def _over(self, now: float) -> list[tuple[int, str]]:
        found = []
        for key, at in self._last.items():
            if now - at < self.delay:
                break
            found.append(key)
        return found
